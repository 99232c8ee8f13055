// One note; in: the text in the form, out: its answer on the page, and what the model would say under another label.

import { postJson } from "./api.js";
import { bar, element, fillBar, percent, show, showMarked } from "./text.js";

const at = (id) => document.getElementById(id);
const FIRST_LABELS = 6;
let facts = null;
// The note whose answer stands on the page, and what is said of it; null where there is none.
let asked = null;
// Raised by a note that is sent and by Clear: a reply from before must not stand beside another text.
let turn = 0;

const KINDS = { number: "a number", finding: "a finding" };

function fault(id, error) {
  at(id).textContent = error ? error.message : "";
  at(id).hidden = !error;
}

function typed() {
  return { question: at("question").value, context: at("context").value };
}

function isTyped(note) {
  const now = typed();
  return note.question === now.question && note.context === now.context;
}

function setBusy(busy) {
  at("send").disabled = busy;
  if (busy) at("note-form").setAttribute("aria-busy", "true");
  else at("note-form").removeAttribute("aria-busy");
}

// Begins anew without an answer; what is still under way is no longer waited for.
function forget() {
  turn += 1;
  asked = null;
  at("answer").hidden = at("what-if").hidden = at("changed").hidden = true;
  at("note-state").textContent = at("what-if-state").textContent = "";
  at("ask").disabled = false;
  fault("note-fault", null);
  setBusy(false);
}

function noteText({ question, context }) {
  return context ? `${question} ${context}` : question;
}

function count() {
  const most = facts?.limits.note_characters;
  const used = Array.from(noteText(typed())).length;
  at("count").textContent = most ? `${used.toLocaleString("en")} of ${most.toLocaleString("en")} characters` : "";
}

/* A text put together otherwise than in training is another text to the model. */
function asTrained(column) {
  return /[{}]/.test(column) ? `; written as in training: ${column}` : "";
}

export function setFacts(served) {
  facts = served;
  at("question-form").textContent = asTrained(served.columns.question);
  at("context-form").textContent = asTrained(served.columns.context ?? "");
  at("explain-box").hidden = !served.explains;
  at("context-box").open = served.columns.context !== null;
  const labels = served.labels.map((label) => new Option(label, label));
  at("other-label").replaceChildren(...labels);
  at("other-label").hidden = labels.length === 0;
  at("other-label-text").hidden = labels.length > 0;
  count();
}

function listUnsupported(box, statements) {
  box.hidden = statements.length === 0;
  const lines = statements.map((one) => {
    const line = element("li", "");
    const text = element("bdi", "");
    show(text, one.text);
    const contrary = one.contradicted ? ", and the note says the contrary" : "";
    line.append(text, ` (${KINDS[one.kind] ?? one.kind}${contrary})`);
    return line;
  });
  box.querySelector("ul").replaceChildren(...lines);
}

function showRationale(node, box, explanation) {
  box.previousElementSibling.hidden = explanation.names !== "other";
  if (explanation.rationale.trim() === "") {
    node.replaceChildren(element("span", "faint", "The model wrote nothing."));
  } else {
    showMarked(node, explanation.rationale, explanation.unsupported, "bad", () => "Not found in the note");
  }
  listUnsupported(box, explanation.unsupported);
}

function showLabels(answer) {
  const all = answer.probabilities;
  at("others").hidden = all === null;
  if (all === null) return;
  at("others-caption").textContent = answer.calibrated
    ? "Calibrated on rows that the model was not trained on."
    : "Not calibrated: take these as an order, not as chances of being right.";
  const rows = all.map(({ label, probability }, number) => {
    const name = element("th", "", element("bdi", ""));
    name.scope = "row";
    show(name.firstChild, label);
    const row = element(
      "tr",
      label === answer.label ? "chosen" : "",
      name,
      element("td", "wide", bar(probability)),
      element("td", "number", percent(probability)),
    );
    row.hidden = number >= FIRST_LABELS;
    return row;
  });
  at("others-rows").replaceChildren(...rows);
  const more = at("more-labels");
  more.hidden = rows.length <= FIRST_LABELS;
  more.textContent = `Show all ${rows.length} labels`;
  more.setAttribute("aria-expanded", "false");
}

function remarks(answer) {
  const told = [];
  if (answer.label_valid === false) told.push("This is none of the labels that the model was taught.");
  if (!answer.label_finished) told.push("The label was cut at its length limit.");
  if (answer.input_cut) {
    told.push(
      `The note has ${answer.input_tokens} tokens; the model saw the first ${facts.limits.input_tokens} only.`,
    );
  }
  if (answer.lost_characters > 0) {
    told.push(`The model cannot read ${answer.lost_characters} characters of the note, such as rare signs; it saw a gap.`);
  }
  if (answer.explanation?.rationale_finished === false) told.push("The explanation was cut at its length limit.");
  const likeliest = answer.probabilities?.[0];
  if (likeliest && answer.label_valid && likeliest.label !== answer.label) {
    told.push("The model writes one label and finds another one likelier.");
  }
  return told;
}

function showAnswer(answer, note) {
  const doubtful = answer.abstained === true;
  at("abstained").hidden = !doubtful;
  at("abstained").replaceChildren(
    element("strong", "", "The model abstains. "),
    answer.threshold === null
      ? "No threshold was found at which few enough of its labels are wrong, so none is to be used."
      : `Its label is below the threshold of ${percent(answer.threshold)}: too unsure to be used.`,
  );
  at("label-box").className = doubtful ? "doubtful" : "";
  at("label-said").textContent = doubtful ? "It would have said" : "The model says";
  show(at("label"), answer.label === "" ? "(nothing)" : answer.label);
  const known = answer.probability !== null;
  at("label-meter").hidden = !known;
  if (known) {
    fillBar(at("label-meter").querySelector(".track"), answer.probability);
    at("label-meter").querySelector(".percent").textContent = percent(answer.probability);
  }
  const among = answer.calibrated ? "Calibrated probability" : "Probability, not calibrated,";
  at("certainty").textContent = known
    ? `${among} among the ${answer.probabilities.length} labels of the set.`
    : `Confidence in the words of the label ${percent(answer.label_confidence)}; it is no probability of being right.`;
  at("remarks").replaceChildren(...remarks(answer).map((text) => element("li", "", text)));
  showLabels(answer);
  at("explanation").hidden = answer.explanation === null;
  if (answer.explanation !== null) {
    showRationale(at("rationale"), at("unsupported"), answer.explanation);
    showMarked(at("cited"), noteText(note), answer.explanation.cited, "");
  }
  at("answer").hidden = false;
  at("what-if").hidden = !facts.follows_labels;
  at("what-if-answer").hidden = true;
  fault("what-if-fault", null);
  const other = answer.probabilities?.find((one) => one.label !== answer.label);
  if (other) at("other-label").value = other.label;
  asked = { note, done: `Done. ${doubtful ? "The model abstains." : `Label: ${answer.label}.`}` };
  at("note-state").textContent = asked.done;
  at("answer-title").focus({ preventScroll: true });
  at("answer").scrollIntoView({ block: "start" });
}

async function send(event) {
  event.preventDefault();
  if (at("send").disabled) return;
  forget();
  const note = typed();
  const mine = turn;
  setBusy(true);
  at("note-state").textContent = "The model reads the note …";
  try {
    const answer = await postJson("/api/predict", { ...note, explain: at("explain").checked });
    if (mine !== turn) return;
    if (isTyped(note)) showAnswer(answer, note);
    else at("note-state").textContent = "The text was changed meanwhile, so its answer is not shown. Send it again.";
  } catch (error) {
    if (mine !== turn) return;
    forget();
    fault("note-fault", error);
  } finally {
    if (mine === turn) setBusy(false);
  }
}

async function askOther(event) {
  event.preventDefault();
  if (at("ask").disabled || asked === null) return;
  const about = asked;
  const label = facts.labels.length ? at("other-label").value : at("other-label-text").value;
  fault("what-if-fault", null);
  at("ask").disabled = true;
  at("what-if-state").textContent = "The model explains …";
  try {
    const answer = await postJson("/api/what-if", { ...about.note, label });
    if (about !== asked) return;
    show(at("what-if-label"), answer.label);
    showRationale(at("what-if-rationale"), at("what-if-unsupported"), answer.explanation);
    at("what-if-answer").hidden = false;
    at("what-if-state").textContent = "Done.";
  } catch (error) {
    if (about !== asked) return;
    at("what-if-state").textContent = "";
    at("what-if-answer").hidden = true;
    fault("what-if-fault", error);
  } finally {
    if (about === asked) at("ask").disabled = false;
  }
}

function clear() {
  at("note-form").reset();
  forget();
  count();
  at("question").focus();
}

function change() {
  count();
  if (asked === null) return;
  const same = isTyped(asked.note);
  at("changed").hidden = same;
  at("note-state").textContent = same ? asked.done : "The text was changed; the answer below is to the one that was sent.";
}

export function startNotes() {
  at("note-form").addEventListener("submit", send);
  at("note-form").addEventListener("input", change);
  at("note-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      at("note-form").requestSubmit();
    }
  });
  at("clear").addEventListener("click", clear);
  at("what-if-form").addEventListener("submit", askOther);
  at("more-labels").addEventListener("click", () => {
    const rows = [...at("others-rows").children];
    const open = at("more-labels").getAttribute("aria-expanded") === "true";
    rows.forEach((row, number) => (row.hidden = open && number >= FIRST_LABELS));
    at("more-labels").setAttribute("aria-expanded", String(!open));
    at("more-labels").textContent = open ? `Show all ${rows.length} labels` : "Show fewer labels";
  });
}
