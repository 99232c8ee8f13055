// The tables of cases: filter, search and pages. Text is only ever set as text, never read as markup.
"use strict";

const ROWS_PER_PAGE = { plain: 50, texts: 20 };
const NO_LABEL = -1;
const [LABEL_CUT, RATIONALE_CUT, RIGHT, EMPTY] = [1, 2, 4, 8];

const SHOWN = {
  "all cases": () => true,
  "wrong": (predictions) => predictions.some(([, , flags]) => !(flags & RIGHT)),
  "right": (predictions) => predictions.every(([, , flags]) => flags & RIGHT),
  "runs disagree": (predictions) => predictions.some(([label]) => label !== predictions[0][0]),
  "no label": (predictions) => predictions.some(([label]) => label === NO_LABEL),
  "unsupported statements": (_, reasons) => reasons.some((one) => one && one[0] + one[1] > 0),
  "cut at a limit": (predictions) => predictions.some(([, , flags]) => flags & (LABEL_CUT | RATIONALE_CUT)),
};

const wrongFirst = (row) => (row[2].some(([, , flags]) => !(flags & RIGHT)) ? 0 : 1);
const confidence = (row) => Math.max(...row[2].map(([, value]) => value ?? 0));
// The rows come in the first order; sorting is stable.
const ORDERS = {
  "as given": null,
  "as in the file": (one, other) => one[3] - other[3],
  "confident mistakes first": (one, other) =>
    wrongFirst(one) - wrongFirst(other) || confidence(other) - confidence(one),
  "least confident first": (one, other) => confidence(one) - confidence(other),
};

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function fillSelect(select, options) {
  for (const [value, text] of options) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
}

// One regular expression for each word that is looked for; capital letters do not matter.
function patterns(words) {
  const escaped = words.split(/\s+/).filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
  return escaped.map((word) => new RegExp(word, "iu"));
}

// The text with what was found marked, as nodes.
function marked(text, wanted) {
  if (!wanted.length) return [text];
  const any = new RegExp(wanted.map((one) => one.source).join("|"), "giu");
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(any)) {
    nodes.push(text.slice(end, found.index), element("mark", "", found[0]));
    end = found.index + found[0].length;
  }
  return [...nodes, text.slice(end)];
}

// The same with the class on the parts at some places, which are in order.
function spanned(text, wanted, places, className) {
  const nodes = [];
  let end = 0;
  for (const [from, to] of places) {
    if (from < end) continue;
    nodes.push(...marked(text.slice(end, from), wanted), element("span", className, ...marked(text.slice(from, to), wanted)));
    end = to;
  }
  return [...nodes, ...marked(text.slice(end), wanted)];
}

class Cases {
  constructor(box) {
    this.box = box;
    this.data = JSON.parse(document.getElementById(box.dataset.cases).textContent);
    this.form = box.querySelector("form");
    this.page = 0;
    this.pageSize = this.data.text ? ROWS_PER_PAGE.texts : ROWS_PER_PAGE.plain;
    this.fillForm();
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", () => setTimeout(() => this.filter()));
    for (const button of box.querySelectorAll("[data-go]"))
      button.addEventListener("click", () => this.go(button.dataset.go));
    this.filter();
  }

  fillForm() {
    const { rows, labels, runs } = this.data;
    const choices = (used) => [
      ["", "any"],
      ...labels.map((name, index) => [index, name]).filter(([index]) => used.has(index)),
      ...(used.has(NO_LABEL) ? [[NO_LABEL, "(no label)"]] : []),
    ];
    fillSelect(this.form.gold, choices(new Set(rows.map((row) => row[1]))));
    fillSelect(this.form.predicted, choices(new Set(rows.flatMap((row) => row[2].map(([label]) => label)))));
    const shown = Object.keys(SHOWN).filter((name) =>
      (runs.length > 1 || name !== "runs disagree") &&
      (this.data.reasons.some(Boolean) || name !== "unsupported statements"));
    fillSelect(this.form.show, shown.map((name) => [name, name]));
    const first = runs.length > 1 ? "disagreement first" : "mistakes first";
    fillSelect(this.form.order, Object.keys(ORDERS).map((name) => [name, ORDERS[name] ? name : first]));
  }

  labelName(index) {
    return index === NO_LABEL ? "(no label)" : this.data.labels[index];
  }

  // For each run what is told of the reasons of a row, or undefined.
  reasons(row) {
    return this.data.reasons.map((rows) => rows?.[row[3] - 1]);
  }

  // All that a search looks through.
  *texts(row) {
    const [id, gold, predictions, , ...texts] = row;
    yield id;
    yield this.labelName(gold);
    yield* texts;
    for (const [label, , , ...generated] of predictions) {
      yield this.labelName(label);
      yield* generated;
    }
  }

  filter() {
    const { gold, predicted, show, order, words } = this.form;
    this.wanted = patterns(words.value);
    this.found = this.data.rows.filter((row) =>
      (gold.value === "" || row[1] === Number(gold.value)) &&
      (predicted.value === "" || row[2].some(([label]) => label === Number(predicted.value))) &&
      SHOWN[show.value](row[2], this.reasons(row)) &&
      (!this.wanted.length || this.matches([...this.texts(row)])));
    if (ORDERS[order.value]) this.found.sort(ORDERS[order.value]);
    this.page = 0;
    this.draw();
  }

  matches(texts) {
    return this.wanted.every((pattern) => texts.some((text) => pattern.test(text)));
  }

  go(where) {
    this.page = { first: 0, previous: this.page - 1, next: this.page + 1, last: this.pages - 1 }[where];
    this.draw();
    // A disabled button cannot keep the keyboard's focus.
    if (document.activeElement?.disabled || document.activeElement === document.body)
      this.box.querySelector("[data-go]:enabled")?.focus();
    this.box.querySelector(".count").scrollIntoView({ block: "nearest" });
  }

  get pages() {
    return Math.max(1, Math.ceil(this.found.length / this.pageSize));
  }

  draw() {
    const start = this.page * this.pageSize;
    const rows = this.found.slice(start, start + this.pageSize);
    this.box.querySelector("tbody").replaceChildren(...rows.flatMap((row) => this.lines(row)));
    this.box.querySelector(".count").textContent = this.found.length
      ? `${this.found.length} of ${this.data.rows.length} cases, ${start + 1} to ${start + rows.length} shown`
      : `None of ${this.data.rows.length} cases fits these filters`;
    this.box.querySelector(".page").textContent = `page ${this.page + 1} of ${this.pages}`;
    for (const button of this.box.querySelectorAll("[data-go]")) {
      const back = ["first", "previous"].includes(button.dataset.go);
      button.disabled = back ? this.page === 0 : this.page >= this.pages - 1;
    }
  }

  lines(row) {
    const [id, gold, predictions, , ...texts] = row;
    const reasons = this.reasons(row);
    const head = element("th", "", element("bdi", "name", ...marked(id, this.wanted)));
    head.scope = "row";
    const cells = predictions.map((one, run) => element("td", "", this.prediction(one, reasons[run])));
    const goldCell = element("td", "", element("bdi", "name", ...marked(this.labelName(gold), this.wanted)));
    const line = element("tr", texts.length ? "head" : "plain", head, goldCell, ...cells);
    return texts.length ? [line, this.textLine(texts, predictions, reasons)] : [line];
  }

  prediction([label, confidence, flags, generated], reasons) {
    const right = Boolean(flags & RIGHT);
    const cell = element("span", "cell");
    cell.append(element("span", right ? "right" : "wrong", right ? "✓ right " : "✗ wrong "));
    cell.append(element("bdi", "name", ...marked(generated || this.labelName(label), this.wanted)));
    if (confidence !== null) cell.append(" ", element("small", "", confidence.toFixed(3)));
    const tags = [
      [label === NO_LABEL && !(flags & EMPTY) && generated, "no label"],
      [flags & EMPTY, "empty"],
      [flags & LABEL_CUT, "label cut"],
      [flags & RATIONALE_CUT, "rationale cut"],
      [reasons?.[0] + reasons?.[1] > 0, `${reasons?.[0] + reasons?.[1]} unsupported`],
      [reasons?.[3], "changes without what is cited"],
    ];
    for (const [there, text] of tags) if (there) cell.append(" ", element("span", "tag", text));
    return cell;
  }

  textLine([input, goldRationale], predictions, reasons) {
    const list = element("dl", "");
    const add = (name, text, places = [], className = "") => {
      const nodes = text ? spanned(text, this.wanted, places, className) : [element("small", "", "(empty)")];
      const value = element("dd", "", ...nodes);
      value.dir = "auto";
      list.append(element("dt", "", name), value);
    };
    const cited = reasons.flatMap((one) => one?.[4] ?? []);
    add("Input", input, cited.sort((one, other) => one[0] - other[0]), "cited");
    add("Gold rationale", goldRationale);
    predictions.forEach(([, , , , rationale], place) =>
      add(predictions.length > 1 ? `Rationale of ${this.data.runs[place][1]}` : "Predicted rationale", rationale,
        reasons[place]?.[5], "unsupported"));
    const cell = element("td", "", list);
    cell.colSpan = predictions.length + 2;
    return element("tr", "texts", cell);
  }
}

for (const box of document.querySelectorAll("[data-cases]")) new Cases(box);
