// Texts as nodes; in: strings and spans in code points, out: text nodes, marks and visible control characters.

// What is drawn as nothing, or turns the direction of what stands behind it, is shown by its number.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/u;

export function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

// Nodes of one text: only ever text nodes, so that nothing in it is markup.
function plain(characters) {
  const nodes = [];
  let run = "";
  for (const character of characters) {
    if (!CONTROL.test(character)) {
      run += character;
      continue;
    }
    if (run) nodes.push(run);
    run = "";
    const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(element("span", "control", `U+${number}`));
  }
  if (run) nodes.push(run);
  return nodes;
}

export function show(node, text) {
  node.replaceChildren(...plain(Array.from(text)));
}

// Spans are sorted, and what overlaps is marked once.
export function showMarked(node, text, spans, className, title) {
  const characters = Array.from(text);
  const nodes = [];
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const start = Math.max(span.start, at);
    if (span.end <= start) continue;
    nodes.push(...plain(characters.slice(at, start)));
    const mark = element("mark", className, ...plain(characters.slice(start, span.end)));
    if (title) mark.title = title(span);
    nodes.push(mark);
    at = span.end;
  }
  nodes.push(...plain(characters.slice(at)));
  node.replaceChildren(...nodes);
}

export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return `${value.toFixed(1)} %`;
}

// The width is set by script: a style in the markup would be refused by the page's own policy.
export function fillBar(track, share) {
  track.querySelector(".fill").style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
}

export function bar(share) {
  const track = element("span", "track", element("span", "fill"));
  fillBar(track, share);
  return track;
}
