"""The page of `r2d serve` in a real browser: typed, sent, read, by keyboard, on a phone, with hostile text."""

import csv
import json
import time

import pytest

pytest_plugins = ["chromium"]
pytest.importorskip("fastapi", reason="r2d_jax[serve] is not installed")

import numpy as np
from serve_cases import FakeModel, running

from r2d_jax.config import ColumnsConfig
from r2d_jax.evaluation.calibration import Calibration
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.serve.limits import Limits
from r2d_jax.serve.served_model import Outcome

HOSTILE = (
    "<script>window.hacked=1</script> <img src=x onerror='window.hacked=2'> Fever since 3 days. "
    "\u202eevil\u202c \u0000"
)
NOTE = "Woman, 54 years. Fever since 3 days. \U0001f9d1 No rash."
LABELS = ("urgent", "not urgent", *(f"level {number}" for number in range(8)))


class TalkingModel(FakeModel):
    """Repeats the note in its rationale, and adds a number that is not in it."""

    def work(self, group, items):
        outcomes = super().work(group, items)
        shares = [0.6, 0.2, *[0.025] * 8]
        return [
            Outcome(
                Prediction("urgent", True, 0.9, f"{item.text} A dose of 777 mg. {item.label}"),
                None if outcome.probabilities is None else np.array(shares),
            )
            for item, outcome in zip(items, outcomes, strict=True)
        ]


@pytest.fixture(scope="module")
def server():
    with running(TalkingModel(labels=LABELS)) as one:
        yield one


@pytest.fixture
def page(browser):
    """Opens a server's page; in the end the console must be silent, and nothing else was asked for."""
    browser.messages.clear()
    browser.requests.clear()
    opened, faults = [], []

    def open_page(
        server, width=1200, *, ready="!document.getElementById('main').hidden", expected=0, **options
    ):
        opened.append(server.address)
        faults.append(expected)
        browser.open(f"{server.address}/", width, **options)
        until(
            browser,
            "document.getElementById('version').textContent !== '' || !document.getElementById('token-form').hidden",
        )
        until(browser, ready)
        return browser

    yield open_page
    # A refused request is one line of the browser's own; of the page there is none.
    refused = [one for one in browser.messages if "Failed to load resource" in one]
    assert len(refused) == sum(faults)
    assert [one for one in browser.messages if one not in refused] == []
    assert all(url.startswith((*opened, "blob:")) for url in browser.requests)
    assert browser.value("window.hacked") is None


def until(browser, condition, secs=10):
    end = time.monotonic() + secs
    while not browser.value(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def shown(browser, name):
    return browser.value(f"document.getElementById({json.dumps(name)}).innerText")


def visible(name):
    return f"document.getElementById('{name}').getClientRects().length > 0"


def type_text(browser, text):
    browser.call("Input.insertText", text=text)


def ctrl_enter(browser):
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
    browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **key)


def ask(browser, text):
    browser.value("document.getElementById('question').focus()")
    type_text(browser, text)
    ctrl_enter(browser)
    until(browser, visible("answer"))


def test_a_note_is_typed_sent_and_answered(page, server):
    browser = page(server)
    # A request of its own tells it, which may end after the one that opens the page.
    until(browser, "document.getElementById('state').innerText === 'ready'")
    ask(browser, NOTE)
    assert shown(browser, "label") == "urgent"
    assert shown(browser, "label-meter") == "60.0 %"
    assert browser.value("document.querySelector('#label-meter .fill').style.width") == "60%"
    assert "not calibrated" in shown(browser, "certainty")
    assert shown(browser, "rationale").startswith(NOTE)
    bad = "[...document.querySelectorAll('#rationale mark.bad')].map(one => one.textContent)"
    assert any("777" in one for one in browser.value(bad))
    assert "777" in shown(browser, "unsupported")
    assert not browser.value(visible("names-other"))
    # Spans count code points, of which the emoji is one; the text is whole and its sentences marked.
    assert shown(browser, "cited") == NOTE
    assert "Fever since 3 days." in browser.value(
        "[...document.querySelectorAll('#cited mark')].map(one => one.textContent).join('|')"
    )
    assert browser.value("document.activeElement.id") == "answer-title"
    assert shown(browser, "note-state") == "Done. Label: urgent."
    # Six of ten labels, then all.
    rows = "[...document.querySelectorAll('#others-rows tr')].filter(one => !one.hidden).length"
    assert browser.value(rows) == 6
    browser.value("document.getElementById('more-labels').click()")
    assert browser.value(rows) == 10


def test_characters_that_the_model_cannot_read_are_told(page, server):
    for text, told in ((NOTE, False), ("SpO2 \ufffc 90 %, \ufffc", True)):
        browser = page(server)
        ask(browser, text)
        assert ("cannot read 2 characters" in shown(browser, "remarks")) == told


def test_hostile_text_is_shown_and_does_nothing(page, server):
    browser = page(server)
    ask(browser, HOSTILE)
    assert browser.value("document.querySelectorAll('main script, main img, main iframe').length") == 0
    text = shown(browser, "cited")
    assert "<script>window.hacked=1</script>" in text
    # What turns the direction, or is nothing to see, is told by its number.
    assert "U+202E" in text
    assert "\u202e" not in text
    refused = "try { document.body.innerHTML = '<b>x</b>'; 'done' } catch (error) { error.name }"
    assert browser.value(refused) == "TypeError"
    browser.messages.clear()


def test_what_if_and_everything_by_keyboard(page, server):
    browser = page(server)
    browser.value("document.body.focus()")
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.className") == "skip"
    browser.press("Enter", 13, "\r")
    assert browser.value("document.activeElement.id") == "question"
    type_text(browser, NOTE)
    for _ in range(2):
        browser.press("Tab", 9)
    assert browser.value("document.activeElement.id") == "send"
    browser.press("Enter", 13, "\r")
    until(browser, visible("answer"))
    for _ in range(12):
        if browser.value("document.activeElement.id") == "other-label":
            break
        browser.press("Tab", 9)
    assert browser.value("document.activeElement.id") == "other-label"
    browser.press("ArrowDown", 40)
    chosen = browser.value("document.getElementById('other-label').value")
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.id") == "ask"
    browser.press("Enter", 13, "\r")
    until(browser, visible("what-if-answer"))
    assert chosen != "urgent"
    assert shown(browser, "what-if-label") == chosen
    assert shown(browser, "what-if-rationale").endswith(chosen)
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    browser.press("Tab", 9)
    assert browser.value(outline) != "none"


# Replies wait in the page until they are let go, in any order.
HOLD = """(() => {
  const fetched = window.fetch;
  let sent = 0;
  window.held = [];
  window.fetch = async (path, options) => {
    if (!/predict|what-if/.test(path)) return fetched(path, options);
    const number = sent++;
    const text = await (await fetched(path, options)).text();
    await new Promise((go) => (window.held[number] = go));
    return { ok: true, json: async () => JSON.parse(text) };
  };
})()"""
OTHER_NOTE = "Man, 31 years. Cough since a week."


def release(browser, number):
    """Let the reply to this request (0: the first one) come; the page is done with it when this returns."""
    until(browser, f"!!window.held[{number}]")
    browser.value(f"window.held[{number}]()")


def retype(browser, text):
    browser.value("document.getElementById('question').focus()")
    browser.value("document.getElementById('question').select()")
    type_text(browser, text)


def send_note(browser, text):
    retype(browser, text)
    ctrl_enter(browser)


def test_the_answer_to_one_note_is_not_shown_beside_another(page, server):
    browser = page(server)
    browser.value(HOLD)
    # Cleared, and another one begun, before the reply comes.
    send_note(browser, NOTE)
    browser.value("document.getElementById('clear').click()")
    type_text(browser, OTHER_NOTE)
    release(browser, 0)
    assert not browser.value(visible("answer"))
    assert not browser.value(visible("what-if"))
    assert shown(browser, "note-state") == ""
    # Another one takes its place without Clear.
    ctrl_enter(browser)
    retype(browser, NOTE)
    release(browser, 1)
    assert not browser.value(visible("answer"))
    assert "The text was changed meanwhile" in shown(browser, "note-state")
    ctrl_enter(browser)
    release(browser, 2)
    assert shown(browser, "cited") == NOTE
    assert not browser.value(visible("changed"))
    # The text changes under its answer, and back.
    retype(browser, OTHER_NOTE)
    assert browser.value(visible("changed"))
    assert "Label" not in shown(browser, "note-state")
    retype(browser, NOTE)
    assert not browser.value(visible("changed"))
    assert shown(browser, "note-state") == "Done. Label: urgent."
    # The reply to a note that was sent and cleared comes after that to the next one.
    send_note(browser, OTHER_NOTE)
    assert not browser.value(visible("answer"))
    browser.value("document.getElementById('clear').click()")
    send_note(browser, NOTE)
    release(browser, 4)
    release(browser, 3)
    assert shown(browser, "cited") == NOTE
    assert not browser.value("document.getElementById('send').disabled")


def test_what_if_is_of_the_note_that_is_answered(page, server):
    browser = page(server)
    browser.value(HOLD)
    send_note(browser, NOTE)
    release(browser, 0)
    # While the next note is in work, there is nothing to ask about.
    send_note(browser, OTHER_NOTE)
    assert not browser.value(visible("what-if"))
    browser.value("document.getElementById('ask').click()")
    release(browser, 1)
    assert shown(browser, "cited") == OTHER_NOTE
    assert not [url for url in browser.requests if url.endswith("what-if")]
    # Asked about one note, and told when the next one has its answer.
    browser.value("document.getElementById('ask').click()")
    send_note(browser, NOTE)
    release(browser, 3)
    release(browser, 2)
    assert shown(browser, "cited") == NOTE
    assert not browser.value(visible("what-if-answer"))
    assert shown(browser, "what-if-state") == ""
    browser.value("document.getElementById('ask').click()")
    release(browser, 4)
    assert browser.value(visible("what-if-answer"))
    assert shown(browser, "what-if-rationale").startswith(NOTE)


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_no_part_is_wider_than_the_window(page, server, width):
    browser = page(server, width)
    ask(browser, "x" * 3000 + " " + HOSTILE)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    wide = "[...document.querySelectorAll('button, input, select, textarea')]"
    assert browser.value(f"{wide}.every(one => one.getBoundingClientRect().right <= innerWidth)")


CONTRAST = """(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("h1, h2, h3, p, label, button, mark, th, td, caption, li, summary, .faint")]
    .filter((node) => node.innerText && node.getClientRects().length)
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), node.tagName + "." + node.className];
    })
    .sort((a, b) => a[0] - b[0])[0];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_dark(page, server, dark):
    browser = page(server, dark=dark)
    # The rationale repeats it, and explains "urgent".
    ask(browser, f"{NOTE} level 3")
    assert browser.value(visible("names-other"))
    ratio, where = browser.value(CONTRAST)
    assert ratio >= 4.5, where
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 20, 23)") == dark


def test_a_file_is_sent_followed_downloaded_and_deleted(page, server, tmp_path):
    browser = page(server)
    rows = [["id", "question"], *([f"case {number}", f"{NOTE} {number}"] for number in range(40))]
    with (tmp_path / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    session, browser._session = browser._session, None
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser._session = session
    found = browser.call("Runtime.evaluate", expression="document.getElementById('file')")
    browser.call(
        "DOM.setFileInputFiles", files=[str(tmp_path / "notes.csv")], objectId=found["result"]["objectId"]
    )
    browser.value("document.getElementById('send-file').click()")
    until(browser, visible("get-csv"))
    assert shown(browser, "file-state") == "Done. 100.0 %"
    assert shown(browser, "file-counts") == "40 of 40 rows: urgent 40"
    browser.value("document.getElementById('get-csv').click()")
    result = tmp_path / "predictions.csv"
    end = time.monotonic() + 10
    while not result.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    with result.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [f"case {number}" for number in range(40)]
    assert table[7]["rationale"] == f"{NOTE} 7 A dose of 777 mg. "
    browser.value("document.getElementById('drop-file').click()")
    until(browser, f"!({visible('file-work')})")
    assert server.service.uploads.held == 0


def test_abstention_and_a_model_that_does_not_explain(page):
    calibration = Calibration(temperature=1.0, threshold=0.9, target_risk=0.1, rows=9, labels_sha256="0" * 64)
    with running(TalkingModel(labels=LABELS, calibration=calibration, explains=False)) as one:
        one.service.model.follows_labels = False
        browser = page(one)
        ask(browser, NOTE)
        assert "The model abstains." in shown(browser, "abstained")
        assert "90.0 %" in shown(browser, "abstained")
        assert shown(browser, "label-said") == "It would have said"
        assert "Calibrated" in shown(browser, "others-caption")
        for name in ("explanation", "what-if", "explain-box"):
            assert not browser.value(visible(name)), name


def test_a_text_that_training_put_together_is_shown_as_it_was(page, server):
    model = TalkingModel()
    model.card.columns = ColumnsConfig(question="{age} years. {complaint}", context="Known: {history}")
    with running(model) as one:
        browser = page(one)
        assert shown(browser, "question-form") == "; written as in training: {age} years. {complaint}"
        assert shown(browser, "context-form") == "; written as in training: Known: {history}"
    browser = page(server)
    assert shown(browser, "question-form") == shown(browser, "context-form") == ""
    assert "no names" in shown(browser, "question-hint")


def test_a_model_without_a_label_set(page):
    with running(TalkingModel(labels=())) as one:
        browser = page(one)
        ask(browser, NOTE)
        assert not browser.value(visible("others"))
        assert not browser.value(visible("label-meter"))
        assert "90.0 %" in shown(browser, "certainty")
        browser.value("document.getElementById('other-label-text').focus()")
        type_text(browser, "<b>any</b>")
        browser.press("Enter", 13, "\r")
        until(browser, visible("what-if-answer"))
        assert shown(browser, "what-if-label") == "<b>any</b>"


def test_the_token_is_asked_for_and_faults_are_told(page):
    token = "a-token-of-some-length"
    with running(TalkingModel(labels=LABELS), Limits(note_characters=100), token=token) as one:
        # One 401 before the token is given, and one 413.
        browser = page(one, ready=visible("token-form"), expected=2)
        assert not browser.value(visible("main"))
        browser.value("document.getElementById('token').focus()")
        type_text(browser, token)
        browser.press("Enter", 13, "\r")
        until(browser, visible("main"))
        assert token not in browser.value("document.documentElement.outerHTML")
        browser.value("document.getElementById('question').focus()")
        type_text(browser, "x" * 101)
        assert shown(browser, "count") == "101 of 100 characters"
        ctrl_enter(browser)
        until(browser, visible("note-fault"))
        assert "longer than 100 characters" in shown(browser, "note-fault")
        assert browser.value("document.getElementById('note-fault').getAttribute('role')") == "alert"


def test_each_control_has_a_name(page, server):
    browser = page(server)
    ask(browser, NOTE)
    nameless = """[...document.querySelectorAll("input, textarea, select, button, progress")]
      .filter((one) => !one.labels?.length && !one.getAttribute("aria-labelledby"))
      .filter((one) => !one.ariaLabel && !one.textContent.trim())
      .map((one) => one.id)"""
    assert browser.value(nameless) == []
