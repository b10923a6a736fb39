"use strict";
// Sorts and filters the images of a run, and shows other labels by giving an overlay's map another palette.
// Without it the page shows all images with the overlays of their top labels.
(() => {
const STRONGEST = 5;
const FADED = 0.5; // of its opacity keeps a segment whose sign is not certain
const MINUS = "\u2212";
const index = JSON.parse(document.getElementById("index").textContent);
const form = document.querySelector(".tools");
if (!form) return;
const controls = form.elements;
const grid = document.querySelector(".cards");
const output = form.querySelector("output");
const colours = ["--for", "--against"].map((name) => rgb(getComputedStyle(document.documentElement).getPropertyValue(name)));

// ---- The images that are known, of the run or of this page alone, and the cards of this page

const images = index.images.map(([name, label, probability, r2, right, ...measured], i) => {
  const place = index.first + i;
  return { place, page: Math.floor(place / index.page) + 1, name, label, probability, r2, right, measured };
});
const eager = !grid.classList.contains("lazy"); // all cards are drawn, for prints and pictures of the whole page too
const cards = [...grid.children].map((element, i) => {
  const image = images[(index.shown?.[i] ?? index.start + i) - index.first]; // those to start with come first
  const rows = [...element.querySelectorAll(".labels tbody tr")]; // none of a text or a table row, whose card stays as it is
  return { ...image, element, rows, chosen: 0, drawn: "0", near: eager, labels: null, map: null };
});
const cardOf = new Map(cards.map((card) => [card.element, card]));
const cardAt = new Map(cards.map((card) => [card.place, card]));

/** The labels of a card: their coefficients as stored, whole numbers of the last decimal. */
function labels(card) {
  card.labels ??= card.rows.map((row) => {
    const decimals = Number(row.dataset.decimals);
    const values = row.dataset.coefficients.split(" ").map((text) => Number(text) / 10 ** decimals);
    const order = values.map((_, i) => i).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    const largest = Math.abs(values[order[0]]);
    // Entries whose sign is not certain, and half of the interval of each of the strongest; none if they are not known.
    const unsure = new Set(numbers(row.dataset.unsure));
    const halves = numbers(row.dataset.halves).map((half) => half / 10 ** decimals);
    const reach = Math.max(largest, ...halves.map((half, i) => Math.abs(values[order[i]]) + half));
    return { decimals, values, order, largest, unsure, halves, reach, name: row.querySelector("button").textContent };
  });
  return card.labels;
}

const ofPage = {};
/** The value of a full scale: of the colours by the "largest" coefficients, of the bars by their "reach". */
function scaleOf(card, label, by = "largest") {
  const most = (one) => Math.max(...labels(one).map((other) => other[by]));
  if (controls.scale.value === "image") return most(card);
  if (controls.scale.value === "page") return (ofPage[by] ??= Math.max(...cards.map(most)));
  return label[by];
}

// ---- An overlay in the colours of a label

/** Draws a card for its chosen label, unless it is far from what the reader sees. */
function draw(card) {
  if (!card.near || !card.rows.length) return;
  colour(card);
  thin(card.element);
}

function colour(card) {
  const state = `${card.chosen}${controls.top.value && ` top ${controls.top.value}`}${controls.scale.value && ` by ${controls.scale.value}`}`;
  if (card.drawn === state) return;
  card.drawn = state;
  const label = labels(card)[card.chosen];
  const scale = scaleOf(card, label);
  const count = controls.top.value === "" ? Infinity : Number(controls.top.value);
  const strongest = label.order.slice(0, STRONGEST).filter((i) => label.values[i] !== 0);
  card.ids ??= card.element.dataset.ids ? card.element.dataset.ids.split(" ").map(Number) : label.values.map((_, i) => i);
  const coloured = new Set(label.order.slice(0, count));
  paint(card, label, scale, coloured);
  hatch(card, label, coloured);
  mark(card, strongest.slice(0, count));
  list(card, label, strongest);
  const view = card.element.querySelector(".view img");
  view.alt = `${card.name} with the segments that speak for ${label.name} in blue and against it in orange${label.unsure.size ? ", hatched if the sign is not certain" : ""}`;
  card.element.querySelector(".scale").hidden = !strongest.length;
  const [low, high] = card.element.querySelectorAll(".scale > span:not(.ramp)");
  low.textContent = MINUS + scale.toFixed(label.decimals);
  high.textContent = `+${scale.toFixed(label.decimals)}`;
  card.element.querySelector(".chosen").textContent = label.name;
  const note = card.rows[card.chosen].dataset.note ?? "";
  card.element.classList.toggle("faint", note !== "");
  Object.assign(card.element.querySelector(".of-label"), { textContent: note, hidden: note === "" });
  card.rows.forEach((row, i) => row.querySelector("button").setAttribute("aria-pressed", String(i === card.chosen)));
}

function paint(card, label, scale, coloured) {
  const image = card.element.querySelector(".view img");
  card.map ??= bytes(image.src);
  const palette = label.values.map((value, i) => [
    ...colours[value > 0 ? 0 : 1], coloured.has(i) && scale ? Math.round(Math.min(1, Math.abs(value) / scale) * (label.unsure.has(i) ? FADED : 1) * 255) : 0,
  ]);
  const old = image.src;
  image.src = picture(card, palette);
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
}

function picture(card, palette) {
  return URL.createObjectURL(new Blob([recoloured(card.map, palette)], { type: "image/png" }));
}

/** Hatches the coloured segments whose sign is not certain, by a mask that is opaque there. */
function hatch(card, label, coloured) {
  const layer = card.element.querySelector(".hatch");
  if (!layer) return;
  card.element.querySelector(".hatched").hidden = !label.unsure.size;
  const opaque = label.values.map((_, i) => [0, 0, 0, label.unsure.has(i) && coloured.has(i) ? 255 : 0]);
  if (card.hatch) URL.revokeObjectURL(card.hatch);
  card.hatch = picture(card, [...opaque, [0, 0, 0, 0], [0, 0, 0, 0]]); // no rest, no outlines
  layer.style.setProperty("--hatch", `url(${card.hatch})`);
}

function mark(card, segments) {
  card.spots ??= new Map(triples(card.element.dataset.spots).map(([id, across, down]) => [id, [across / 10, down / 10]]));
  card.element.querySelector(".marks").replaceChildren(...segments.map((i) => {
    const spot = made("span", "", card.ids[i]);
    [spot.style.left, spot.style.top] = card.spots.get(card.ids[i]).map((part) => `${part}%`);
    return spot;
  }));
}

/** Hides the numbers that would lie on those of stronger segments. */
function thin(element) {
  const spots = [...element.querySelectorAll(".marks span")].map((spot) => [spot, spot.getBoundingClientRect()]);
  const shown = [];
  spots.forEach(([spot, box]) => {
    const free = shown.every((other) => box.right <= other.left || box.left >= other.right || box.bottom <= other.top || box.top >= other.bottom);
    spot.classList.toggle("covered", !free);
    if (free) shown.push(box);
  });
}

function list(card, label, segments) {
  const percent = (part) => `${(100 * part) / scaleOf(card, label, "reach")}%`;
  const signed = (value) => (value < 0 ? MINUS : "+") + Math.abs(value).toFixed(label.decimals);
  const items = segments.map((i, rank) => {
    const value = label.values[i];
    const unsure = label.unsure.has(i);
    const item = document.createElement("li");
    const track = made("span", "track", "");
    track.append(made("span", `bar ${value > 0 ? "for" : "against"}${unsure ? " unsure" : ""}`, ""));
    track.firstChild.style.width = percent(Math.abs(value));
    item.append(made("span", "id", `#${card.ids[i]}`), track, made("span", "", signed(value)));
    if (label.halves.length) {
      const half = label.halves[rank];
      const start = Math.max(0, Math.abs(value) - half); // the end below 0 is not drawn
      track.append(made("span", "interval", ""));
      Object.assign(track.lastChild.style, { left: percent(start), width: percent(Math.abs(value) + half - start) });
      item.title = `95 % interval ${signed(value - half)} to ${signed(value + half)}${unsure ? ", the sign is not certain" : ""}`;
      item.lastChild.append(made("span", "unseen", `, ${item.title}`));
    }
    return item;
  });
  const intervals = card.element.querySelector(".intervals");
  if (intervals) intervals.hidden = !label.halves.length;
  card.element.querySelector(".strongest").replaceChildren(...items);
  card.element.querySelector(".none").hidden = items.length > 0;
}

// ---- A card's pictures, large

const large = document.querySelector(".large");
let enlarged = null;

function enlarge(card) {
  if (!card.rows.length) return;
  enlarged = card;
  const { width, height } = card.element.querySelector(".view img");
  const [name, ...halves] = ["h3", ".picture", ".halves > :nth-child(2)"].map((one) => card.element.querySelector(one).cloneNode(true));
  name.removeAttribute("id");
  name.append(`, ${card.rows[card.chosen].querySelector("button").textContent}`);
  const both = made("div", "halves", "");
  both.append(...halves);
  large.replaceChildren(name, both);
  large.style.setProperty("--ratio", width / height);
  large.style.setProperty("--picture", card.element.style.getPropertyValue("--picture") || "none");
  large.classList.toggle("faint", card.element.classList.contains("faint"));
  if (!large.open) large.showModal();
  thin(large);
}
large.addEventListener("click", () => large.close());
large.addEventListener("close", () => {
  if (large.open) return;  // opened again before this event came
  const card = enlarged;
  enlarged = null;
  goTo(card, "nearest");
});

/** A palette PNG with other colours, [red, green, blue, alpha] for its first entries; its map stays as it is. */
function recoloured(png, palette) {
  const copy = png.slice();
  const view = new DataView(copy.buffer);
  for (let at = 8; at < copy.length;) {
    const size = view.getUint32(at);
    const kind = String.fromCharCode(...copy.subarray(at + 4, at + 8));
    if (kind === "PLTE") palette.forEach((colour, i) => copy.set(colour.slice(0, 3), at + 8 + 3 * i));
    if (kind === "tRNS") palette.forEach((colour, i) => { copy[at + 8 + i] = colour[3]; });
    if (kind === "PLTE" || kind === "tRNS") view.setUint32(at + 8 + size, crc32(copy.subarray(at + 4, at + 8 + size)));
    at += 12 + size;
  }
  return copy;
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit += 1) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
function crc32(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// ---- Filter and sort

/** What the form asks of an image, as a function of it. */
function filter() {
  const wanted = controls.id.value.trim().toLowerCase();
  const bound = (name, otherwise) => (controls[name].value === "" ? otherwise : Number(controls[name].value));
  const [pmin, pmax, rmin, rmax] = [bound("pmin", -Infinity), bound("pmax", Infinity), bound("rmin", -Infinity), bound("rmax", Infinity)];
  const byScore = controls.rmin.value !== "" || controls.rmax.value !== "";
  const right = controls.right?.value ?? "";
  return ({ name, label, probability, r2, right: isRight }) =>
    name.toLowerCase().includes(wanted) &&
    (controls.class.value === "" || label === Number(controls.class.value)) &&
    (right === "" || isRight === Number(right)) &&
    probability >= pmin && probability <= pmax &&
    (!byScore || (r2 !== null && r2 >= rmin && r2 <= rmax));
}

const TEXT = new Intl.Collator(undefined, { numeric: true });
const picked = new Map((index.picked ?? []).map((place, rank) => [place, rank]));
const KEYS = { s: (one) => picked.get(one.place) ?? null, p: (one) => one.probability, r: (one) => one.r2, t: (one) => one.right, c: (one) => index.classes[one.label], i: (one) => one.name };
index.metrics.forEach(([letter], at) => { KEYS[letter] = (one) => one.measured[at]; });
/** All images in the order that is asked for: those without the value come last, equal ones stay in the order of the run. */
function sorted() {
  const [name, direction] = controls.sort.value;
  if (!name) return images;
  const sign = direction === "-" ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? TEXT.compare(a, b) : a - b);
  const keyed = images.map((image) => [KEYS[name](image), image]);
  keyed.sort(([a, one], [b, other]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)) || one.place - other.place);
  return keyed.map(([, image]) => image);
}

let order = cards;
function arrange() {
  const fits = filter();
  const all = sorted();
  const found = all.filter(fits);
  const wanted = all.flatMap((image) => cardAt.get(image.place) ?? []);
  cards.forEach((card) => { card.element.hidden = !fits(card); });
  if (wanted.some((card, i) => card !== order[i])) grid.append(...wanted.map((card) => card.element));
  order = wanted;
  tell(found.length);
  tabulate(found);
}

const several = index.total > cards.length;
const asked = () => FILTERS.some((name) => controls[name] && controls[name].value !== "");

/** Says how many images fit: on this page, and in the run. */
function tell(found) {
  const here = cards.filter((card) => !card.element.hidden).length;
  const counted = here < cards.length ? `${number(here)} of ${number(cards.length)}` : number(here);
  output.replaceChildren(`${counted} ${index.kind}${cards.length === 1 ? "" : "s"}${several ? " on this page" : ""}`);
  document.querySelector(".nothing").hidden = here > 0;
  if (!several) return;
  if (!asked()) output.append(` of ${number(index.total)}`);
  else if (index.whole) output.append(`, ${number(found)} of ${number(index.total)} in the run`);
  if (!index.whole && index.first_page_is_whole) output.append("; ", link(1, "sort and filter the whole run"));
}

// ---- A table of the whole run in the order of the form, beside the cards of one page

const LINES = 100; // at a time
const run = document.querySelector(".run");
const more = run?.querySelector("button");
let lines = [];

function tabulate(found) {
  if (!run) return;
  lines = found;
  run.hidden = !found.length || !(asked() || controls.sort.value);
  run.querySelector("#run").textContent = `${number(found.length)} ${index.kind}${found.length === 1 ? "" : "s"} of the whole run${asked() ? " fit" : ""}`
    + (controls.sort.value ? `, by ${controls.sort.selectedOptions[0].text}` : "");
  run.querySelector("tbody").replaceChildren();
  run.querySelector(".scroller").scrollTop = 0;
  lengthen();
}

function lengthen() {
  const body = run.querySelector("tbody");
  const start = body.childElementCount;
  if (!run.hidden) body.append(...lines.slice(start, start + LINES).map((image, i) => line(image, start + i + 1)));
  const left = lines.length - body.childElementCount;
  more.hidden = left === 0;
  more.textContent = `Show ${number(Math.min(LINES, left))} of ${number(left)} more`;
  carry();
}

function line(image, rank) {
  const row = document.createElement("tr");
  const cell = (text, kind = "") => { row.append(made("td", kind, text)); };
  cell(number(rank), "number");
  cell("");
  row.lastChild.append(link(image.page, image.name, image.place));
  if (!index.regression) cell(index.classes[image.label]);
  const output = Math.abs(image.probability) < 1e4 ? image.probability.toFixed(3) : image.probability.toExponential(2);
  cell(output.replace("-", MINUS), "number");
  cell(image.r2 === null ? "\u2013" : image.r2 < -10 ? `< ${MINUS}10` : image.r2.toFixed(2).replace("-", MINUS), "number");
  image.measured.forEach((value) => cell(value === null ? "\u2013" : value.toFixed(3).replace("-", MINUS), "number"));
  if (index.targets) cell(["wrong", "right"][image.right] ?? "", ["wrong", "right"][image.right] ?? "");
  cell(number(image.page), "number");
  return row;
}

// ---- The form's state is in the address, so that a view can be kept, and other pages show the same

const FILTERS = ["id", "class", "right", "pmin", "pmax", "rmin", "rmax"];
const NAMES = [...FILTERS, "sort", "label", "top", "scale", "strength"];
const current = Number(document.querySelector(".pager [aria-current]")?.dataset.page ?? 1);
const initial = Object.fromEntries(NAMES.map((name) => [name, controls[name]?.value]));

/** The view as the end of an address, and the place in the run of the image to go to. */
function hash(place) {
  const changed = NAMES.filter((name) => controls[name] && controls[name].value !== initial[name]);
  const state = changed.map((name) => [name, controls[name].value]);
  const text = new URLSearchParams(place === undefined ? state : [...state, ["image", place]]).toString();
  return text && `#${text}`;
}

function remember() {
  history.replaceState(null, "", hash() || location.pathname);
  carry();
}

/** Links to other pages take the view along. */
function carry() {
  const links = document.querySelectorAll(".pager a, output a, .run a");
  links.forEach((one) => { one.href = one.getAttribute("href").split("#")[0] + hash(one.dataset.place); });
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  NAMES.forEach((name) => { if (controls[name]) controls[name].value = state.get(name) ?? initial[name]; });
  return state.has("image") ? cardAt.get(Number(state.get("image"))) : undefined;
}

function link(page, text, place) {
  const anchor = made("a", "", text);
  anchor.href = page === 1 ? "report.html" : `report-${page}.html`; // carry adds the view
  if (place !== undefined) anchor.dataset.place = place;
  return anchor;
}

// ---- What the reader does

function chooseAll() {
  const wanted = controls.label.value;
  cards.forEach((card) => {
    const target = card.rows.findIndex((row) => "target" in row.dataset);
    card.chosen = wanted === "target" ? Math.max(0, target) : Math.min(Number(wanted), card.rows.length - 1);
  });
}

function redraw() {
  document.documentElement.style.setProperty("--strength", Number(controls.strength.value) / 100);
  cards.forEach(draw);
}

function choose(card, i) {
  if (i >= card.rows.length) return;
  card.chosen = i;
  card.near = true;
  draw(card);
  if (enlarged) enlarge(card);
}

function step(by) {
  const visible = order.filter((card) => !card.element.hidden);
  const at = visible.findIndex((card) => card === enlarged || card.element.contains(document.activeElement));
  const next = visible[at < 0 ? 0 : Math.min(visible.length - 1, Math.max(0, at + by))];
  if (enlarged) { choose(next, next.chosen); enlarge(next); } else goTo(next, "nearest");
}

function goTo(card, block) {
  card?.element.focus({ preventScroll: true });
  card?.element.scrollIntoView({ block });
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target.name === "label") chooseAll();
  if ([...FILTERS, "sort"].includes(event.target.name)) arrange();
  else redraw();
  remember();
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  NAMES.forEach((name) => { if (controls[name]) controls[name].value = initial[name]; });
  show();
  remember();
});
grid.addEventListener("click", (event) => {
  const picture = event.target.closest(".picture, .view");
  if (picture) enlarge(cardOf.get(picture.closest(".card")));
  const button = event.target.closest(".labels button");
  if (!button) return;
  const card = cardOf.get(button.closest(".card"));
  choose(card, card.rows.indexOf(button.closest("tr")));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const card = enlarged ?? cardOf.get(event.target.closest?.(".card"));
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "/") controls.id.focus();
  else if (event.target.matches(".view") ? /^(Enter| )$/.test(event.key) : event.key === "Enter" && event.target.matches(".card")) enlarge(card);
  else if (card && /^[1-9]$/.test(event.key)) choose(card, Number(event.key) - 1);
  else return;
  event.preventDefault();
});
window.addEventListener("beforeprint", () => cards.forEach((card) => { card.near = true; draw(card); }));
window.addEventListener("hashchange", () => {
  if (!location.hash.includes("=")) return; // a place on the page, not a view
  const wanted = recall();
  show();
  goTo(wanted, "start");
});
more?.addEventListener("click", lengthen);
run?.addEventListener("click", (event) => { // the address of the image that was gone to last does not change
  if (event.target.href === location.href) goTo(cardAt.get(Number(event.target.dataset.place)), "start");
});

// ---- Small helpers

function rgb(text) {
  return [1, 3, 5].map((at) => parseInt(text.trim().slice(at, at + 2), 16));
}
function bytes(uri) {
  return Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (sign) => sign.charCodeAt(0));
}
function triples(text) {
  const numbers = text.split(" ").map(Number);
  return Array.from({ length: Math.floor(numbers.length / 3) }, (_, i) => numbers.slice(3 * i, 3 * i + 3));
}
function numbers(text) {
  return text ? text.split(" ").map(Number) : [];
}
function made(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}
function option(value, text) {
  const element = made("option", "", text);
  element.value = value;
  return element;
}
function number(n) {
  return n.toLocaleString("en");
}

// ---- Start

function show() {
  chooseAll();
  arrange();
  redraw();
}

const counts = new Map();
images.forEach(({ label }) => counts.set(label, (counts.get(label) ?? 0) + 1));
const classes = Object.entries(index.classes).sort(([, a], [, b]) => TEXT.compare(a, b));
controls.class.append(...classes.map(([label, name]) => option(label, `${name} (${number(counts.get(Number(label)))})`)));
const most = Math.max(...cards.map((card) => card.rows.length));
controls.label.append(...Array.from({ length: most - 1 }, (_, i) => option(i + 1, `number ${i + 2}`)));
if (document.querySelector("[data-target]")) controls.label.append(option("target", "target"));
document.querySelectorAll(".labels button").forEach((button) => { button.disabled = false; });
cards.filter(({ rows }) => rows.length)
  .forEach(({ element, name }) => Object.assign(element.querySelector(".view"), { tabIndex: 0, role: "button", ariaLabel: `Enlarge ${name}` }));
document.documentElement.classList.add("scripted");
const observer = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
  const card = cardOf.get(target);
  card.near = eager || isIntersecting;
  draw(card);
}), { rootMargin: "400px" });
cards.forEach((card) => observer.observe(card.element));
new ResizeObserver(() => cards.forEach(draw)).observe(grid);
const wanted = recall();
show();
carry();
goTo(wanted, "start");
})();
