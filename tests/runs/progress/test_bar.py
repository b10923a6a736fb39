"""Output of a run."""

from gpulime.runs.progress.bar import SHOWN_IMAGES, Progress, lines

ROW = {
    "image_id": "cats/a.png",
    "status": "ok",
    "n_segments": 3,
    "n_samples": 10,
    "labels": [1, 7],
    "pred_probs": [0.75, 0.125],
    "r2": [0.6, None],
    "r2_loo": [0.5, None],
    "coef": [[0.1, -0.2, 0.05], [0.0, 0.0, 0.0]],
}
ERROR = {"image_id": "b\n.png", "status": "error", "error_type": "decode", "error": "is empty"}


def test_an_image_in_words():
    head, first, second = lines(ROW, ["ant", "cat"])
    assert head == "cats/a.png (3 segments)"
    assert first.split()[:6] == ["cat", "0.750", "R2", "left", "out", "0.50"]
    assert first.split()[-6:] == ["#1", "-0.200", "#0", "+0.100", "#2", "+0.050"]
    assert second.split()[:7] == ["class", "7", "0.125", "R2", "left", "out", "-"]
    assert second.split()[-3:] == ["strongest", "segments", "none"]


def test_small_coefficients_are_printed_with_their_figures():
    _, first, _ = lines(ROW | {"coef": [[3e-5, -2.5e-6, 1e-17], [0.0] * 3], "n_segments": 1}, None)
    assert first.split()[-4:] == ["#0", "+0.0000300", "#1", "-0.0000025"]


def test_one_segment_is_one():
    assert lines(ROW | {"n_segments": 1}, None)[0] == "cats/a.png (1 segment)"


def test_a_hostile_name_stays_on_its_line():
    assert lines(ERROR, None) == ["b\\n.png: decode: is empty"]


def test_only_the_first_images_are_printed(capsys):
    with Progress(SHOWN_IMAGES + 5, 10, None) as progress:
        for _ in range(SHOWN_IMAGES + 5):
            progress.image(ERROR)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == SHOWN_IMAGES + 1
    assert "every image is in the results" in out[-1]


def test_the_bar_tells_rates_the_model_s_share_and_the_time_left():
    with Progress(4, 10, None, lambda: 9.0) as progress:
        progress.started -= 10
        progress.bar.start_t -= 10
        progress.forwards(20)
        bar = str(progress.bar)
    assert "20/40 forwards" in bar
    assert " 2.00 forwards/s" in bar
    assert "0.20 images/s" in bar
    assert "90 % in the model" in bar or "89 % in the model" in bar
    assert "00:10 left" in bar


def test_in_a_log_every_state_is_a_line(capsys):
    with Progress(4, 10, None) as progress:
        progress.bar.mininterval = 0
        progress.forwards(20)
        progress.bar.refresh()
        progress.image(ROW)
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert all(line.endswith("left") for line in shown.splitlines())
    assert "20/40 forwards" in shown.splitlines()[-1]


def test_forwards_that_will_not_come_are_not_waited_for(capsys):
    with Progress(3, 10, None) as progress:
        progress.image(ERROR)
        progress.forwards(20)
        progress.image(ROW)
        assert (progress.bar.n, progress.bar.total) == (20, 20)
    assert "b\\n.png" in capsys.readouterr().out


def test_images_are_expected_to_take_what_the_finished_ones_took():
    with Progress(4, 10, None, shown=False) as progress:
        totals = []
        for samples in (10, 40, 22, 8):
            progress.forwards(samples)
            progress.image(ROW | {"n_samples": samples})
            totals.append(progress.total)
            assert progress.seen <= progress.total == progress.bar.total
    assert totals == [40, 100, 96, 80]
    assert progress.left == 0


def test_an_image_that_takes_longer_than_expected_never_passes_the_end():
    with Progress(2, 10, None) as progress:
        for _ in range(6):
            progress.forwards(10)
            assert progress.total == max(20, progress.seen)
        assert progress.left is None
        progress.image(ROW | {"n_samples": 60})
        assert progress.total == 120
        assert progress.left > 0


def test_the_end_is_the_end_if_equal_masks_share_forwards():
    with Progress(2, 16, None, shown=False) as progress:
        for _ in range(2):
            progress.forwards(12)
            progress.image(ROW | {"n_samples": 16})
    assert (progress.total, progress.left) == (24, 0)
