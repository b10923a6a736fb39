"""The command: its help, the merging of options and files, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import rows

from gpulime import config
from gpulime.cli import main
from gpulime.config import Config, LimeConfig, ModelConfig
from gpulime.errors import GpulimeError
from gpulime.runs import from_config
from gpulime.runs.progress import exits


@pytest.fixture
def ran(monkeypatch):
    """The configs that ``explain`` would have run."""
    configs = []
    monkeypatch.setattr(from_config, "run", lambda chosen, **call: configs.append(chosen) or 0)
    return configs


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return to_file


HELP = [
    ["--help"],
    ["explain", "--help"],
    ["bench", "--help"],
    ["diff", "--help"],
    ["export"],
    ["--version"],
    ["explain", "--lime.n_sample", "1"],
]


def test_help_needs_no_torch_and_little_time():
    code = f"""
import sys, time
from gpulime.cli.main import main
heavy, before = {{"torch", "torchvision", "numpy", "PIL", "pyarrow", "skimage", "sklearn", "jinja2", "matplotlib"}}, 0
for command in {HELP}:
    main(command)
    assert not heavy & set(sys.modules), (command, heavy & set(sys.modules))
    assert time.process_time() - before < 1, (command, time.process_time() - before)
    before = time.process_time()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_gpulime_is_the_command():
    done = subprocess.run([sys.executable, "-m", "gpulime", "explian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "gpulime: the command must be one of 'explain', 'status', 'report', 'evaluate', 'export', 'diff', 'verify', 'compact', "
        "'bench', 'doctor'; got 'explian' (did you mean 'explain'?)\n"
    )


def test_help_names_the_commands_and_where_to_start(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in main.COMMANDS)
    assert "gpulime explain --config configs/quickstart.yaml" in text


def test_without_a_command_the_help_goes_to_stderr(capsys):
    assert main.main([]) == 2
    assert "usage: gpulime" in capsys.readouterr().err


def test_help_of_explain_describes_every_setting(capsys):
    assert main.main(["explain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in config.settings():
        assert f"--{name} " in text
        assert field.metadata["help"] in text, name
    assert "--lime.fill+" not in text
    assert "(default: fast)" in text


def test_config_file_then_options(ran, write):
    path = write("""
model: {factory: my_project.make, kwargs: {depth: 3}}
lime:
  n_samples: 300
  segments: {slic: {n_segments: 60}}
  alpha: 1e-3
  activation: null
data: # nothing set
out: runs/file
""")
    assert main.main(["explain", "--config", path, "--lime.n_samples", "7", "--model.kwargs.width", "2"]) == 0
    model = ModelConfig(factory="my_project.make", kwargs={"depth": 3, "width": 2})
    lime = LimeConfig(n_samples=7, segments={"slic": {"n_segments": 60}}, alpha=0.001, activation=None)
    assert ran == [Config(model=model, lime=lime, out="runs/file")]


def test_options_alone(ran):
    arguments = ["--lime.segments={grid: {rows: 3}}", "--lime.fill", "0.5", "--lime.batch_size", "8", "--report", "false"]
    assert main.main(["explain", *arguments]) == 0
    lime = LimeConfig(segments={"grid": {"rows": 3}}, fill=0.5, batch_size=8)
    assert ran == [Config(lime=lime, report=False)]
    assert main.main(["explain", "--lime.segments", "grid", "--lime.fill", "[0, 0.5, 1]", "--lime.kernel_width", "null"]) == 0
    assert ran[1].lime == LimeConfig(segments="grid", fill=[0.0, 0.5, 1.0], kernel_width=None)


def test_exit_code_is_the_runs(monkeypatch):
    monkeypatch.setattr(from_config, "run", lambda chosen, **call: 3)
    assert main.main(["explain"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lime: {n_sample: 10}", "config {path}: unknown key 'lime.n_sample' (did you mean 'lime.n_samples'?)"),
        ("lime.n_sample: 10", "config {path}: unknown key 'lime.n_sample' (did you mean 'lime.n_samples'?)"),
        ("lime: 10", "config {path}: lime must be a mapping of settings such as 'lime: {{quality: ...}}'; got 10"),
        ("lime: {n_samples: ten}", "lime.n_samples must be a whole number or 'auto' or null; got 'ten'"),
        ("lime: {n_samples: 1.5}", "lime.n_samples must be a whole number or 'auto' or null; got '1.5'"),
        ("out: [", "config {path}: is not YAML: line 1, "),
        ("out: x\nlime: [1, 2", "config {path}: is not YAML: line 2, "),
        ("", "config {path}: must be a mapping such as 'out: runs/mine'; got None"),
        ("- 1", "config {path}: must be a mapping such as 'out: runs/mine'; got [1]"),
    ],
)
def test_a_bad_file_is_one_line_that_says_what_is_right(write, capsys, text, message):
    path = write(text)
    assert main.main(["explain", "--config", path]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("gpulime: " + message.format(path=repr(path)))
    assert output.err.count("\n") == 1
    assert not output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "config 'nowhere.yaml': cannot be read: No such file or directory"),
        (["--lime.n_sample", "1"], "unknown option '--lime.n_sample' (did you mean '--lime.n_samples'?)"),
        (["--lime.n_sample=1"], "unknown option '--lime.n_sample' (did you mean '--lime.n_samples'?)"),
        (["photos"], "unknown argument 'photos'"),
        (["--lime.n_samples", "many"], "lime.n_samples must be a whole number or 'auto' or null; got 'many'"),
        (["--lime.kernel_width", "x"], "lime.kernel_width must be a number or 'auto' or null; got 'x'"),
        (["--lime.batch_size", "x"], "lime.batch_size must be a whole number or 'auto'; got 'x'"),
        (["--report", "maybe"], "report must be true or false"),
        (["--data.workers", "-1"], "data.workers must be 0 or more; got -1"),
        (["--lime.mean", "[0, 0, 0]"], "lime.mean and lime.std must be given together; got [0.0, 0.0, 0.0] and None"),
    ],
)
def test_a_bad_option_is_one_line_that_says_what_is_right(capsys, arguments, message):
    assert main.main(["explain", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"gpulime: {message}")
    assert output.err.count("\n") == 1
    assert not output.out


@pytest.mark.parametrize(
    ("command", "option", "near"),
    [
        ("export", "--out", " (did you mean '--to'?)"),
        ("verify", "--lime.n_samples", ""),
        ("bench", "--second", " (did you mean '--seconds'?)"),
    ],
)
def test_an_unknown_option_is_compared_with_those_of_its_command(command, option, near, capsys):
    assert main.main([command, option, "x"]) == 2
    assert capsys.readouterr().err == f"gpulime: unknown option {option!r}{near}\n"


def test_an_error_of_the_run_is_one_line(monkeypatch, capsys):
    def fail(_, **call):
        raise GpulimeError("no such picture: 'a\\nb'")

    monkeypatch.setattr(from_config, "run", fail)
    assert main.main(["explain"]) == 2
    assert capsys.readouterr().err == "gpulime: no such picture: 'a\\nb'\n"


def test_without_a_model_explain_says_what_to_set(capsys):
    assert main.main(["explain"]) == 2
    assert capsys.readouterr().err.startswith("gpulime: model.factory is not set: give the function that makes your model")


def test_an_unknown_option_of_a_segmenter_is_named(tmp_path, capsys):
    model = ["--model.factory=torchvision.models.squeezenet1_1", "--data.crop=64", f"--out={tmp_path / 'run'}"]
    assert main.main(["explain", *model, "--lime.segments={slic: {n_segment: 60}}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("gpulime: ")
    assert "'n_segment'" in message
    assert "did you mean 'n_segments'?" in message


def test_report_prints_the_path(monkeypatch, capsys):
    monkeypatch.setattr(from_config, "report", lambda run: run / "report.html")
    assert main.main(["report", "runs/mine"]) == 0
    assert capsys.readouterr().out == f"{Path('runs/mine/report.html')}\n"
    assert main.main(["report"]) == 2
    assert capsys.readouterr().err.startswith("gpulime: report needs RUN")


def test_export_writes_what_is_asked_for_by_option_and_by_file(tmp_path, capsys):
    folder = rows.run(tmp_path / "run", *(rows.explained(name) for name in ("a", "b b", "c", "d")))
    (tmp_path / "ids.txt").write_bytes("\ufeffb b\r\n\nc\n".encode())
    to = tmp_path / "to"
    assert main.main(["export", str(folder), "--ids", "d", "a", "--ids-file", str(tmp_path / "ids.txt"), "--to", str(to)]) == 0
    assert capsys.readouterr().out == f"4 images: {to / 'index.csv'}\n"
    lines = (to / "index.csv").read_text().splitlines()[1::2]
    assert [line.split(",")[0] for line in lines] == ["d", "a", "b b", "c"]
    assert main.main(["export", str(folder), "--to", str(tmp_path / "all")]) == 0
    assert len(list((tmp_path / "all").glob("*.npz"))) == 4


def test_diff_prints_a_table_and_writes_a_page(tmp_path, capsys):
    a, b = (str(rows.run(tmp_path / name, rows.explained("x"))) for name in "ab")
    assert main.main(["diff", a, b]) == 0
    printed = capsys.readouterr().out
    assert "rank correlation" in printed
    assert printed.endswith(f"\npage: {tmp_path / 'b' / 'diff.html'}\n")
    assert (tmp_path / "b" / "diff.html").is_file()
    assert main.main(["diff", a, b, "--to", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "diff.html").is_file()


def test_diff_prints_its_table_where_the_page_cannot_be_written(tmp_path, capsys):
    a, b = (str(rows.run(tmp_path / name, rows.explained("x"))) for name in "ab")
    (tmp_path / "file").write_text("no folder")
    assert main.main(["diff", a, b, "--to", str(tmp_path / "file")]) == exits.NOT_WRITABLE
    printed = capsys.readouterr()
    assert "rank correlation" in printed.out
    assert "page:" not in printed.out
    assert printed.err.startswith("gpulime: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "export needs RUN"),
        (["export", "runs/mine"], "export needs --to DIR"),
        (["export", "nowhere", "--to", "x"], "nowhere holds no run: there is no run.json in it"),
        (["export", "nowhere", "--to", "x", "--ids-file", "no.txt"], "--ids-file 'no.txt' cannot be read: "),
        (["diff"], "diff needs RUN_A and RUN_B"),
        (["diff", "runs/mine"], "diff needs RUN_A and RUN_B"),
        (["diff", "nowhere", "there"], "nowhere holds no run"),
    ],
)
def test_export_and_diff_say_what_is_missing(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"gpulime: {message}")
    assert output.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_doctor_prints_all_facts(capsys):
    from gpulime import doctor

    assert main.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name, fact in doctor.describe().items():
        assert name in text
        assert str(fact or "none") in text


def test_a_warning_is_a_line_as_an_error_is(monkeypatch, capsys, recwarn):
    def run(chosen, **call):
        warnings.warn_explicit("the weights are old", UserWarning, from_config.__file__, 1)
        warnings.warn_explicit("is deprecated", UserWarning, "/elsewhere/torch/nn.py", 7)
        return 0

    before = warnings.formatwarning
    monkeypatch.setattr(from_config, "run", run)
    monkeypatch.setattr(warnings, "showwarning", shown)
    assert main.main(["explain"]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "gpulime: the weights are old"
    assert others[0] == "/elsewhere/torch/nn.py:7: UserWarning: is deprecated"
    assert warnings.formatwarning is before


def shown(message, category, filename, lineno, file=None, line=None):
    """As Python does, which pytest replaces."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--limit", "x"], "--limit must be a whole number; got 'x'"),
        (["compact", "run", "--rows", "1.5"], "--rows must be a whole number; got '1.5'"),
        (["compact", "run", "--rows"], "--rows needs a value"),
        (["export", "run", "--ids"], "--ids needs a value"),
    ],
)
def test_options_that_are_no_settings_are_refused_in_plain_words(arguments, message, capsys):
    assert main.main(arguments) == exits.BAD_USAGE
    assert capsys.readouterr().err == f"gpulime: {message}\n"


def test_a_dataset_of_a_factory_is_asked_for_by_options(ran):
    assert main.main(["explain", "--data.factory", "my:make", "--data.kwargs", "{n: 3}", "--data.channels", "1"]) == 0
    assert (ran[0].data.factory, ran[0].data.kwargs, ran[0].data.channels) == ("my:make", {"n": 3}, 1)


def test_the_help_shows_defaults_as_they_are(capsys):
    assert main.main(["explain", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert r"what separates words (default: \W+)" in said
    assert "a word is one part wherever it occurs; if false, each occurrence is a part (default: true)" in said
