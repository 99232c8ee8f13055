// A file of notes; in: the chosen file, out: its progress on the page, and its results as a download.

import { getJson, request } from "./api.js";
import { percent } from "./text.js";

const at = (id) => document.getElementById(id);
const FORMATS = { csv: "csv", tsv: "tsv", jsonl: "jsonl", ndjson: "jsonl" };
const LOOK_EVERY_MS = 700;
const MAX_LABELS = 8;
let current = null;
let limits = null;

function fault(error) {
  at("file-fault").textContent = error ? error.message : "";
  at("file-fault").hidden = !error;
}

export function setFileFacts(served) {
  limits = served.limits;
  const { question, context, id } = served.columns;
  const named = [`text in “${question}”`, context && `context in “${context}”`, id && `id in “${id}”`];
  const most = `At most ${limits.upload_rows.toLocaleString("en")} rows and ${Math.floor(limits.upload_bytes / 2 ** 20)} MiB.`;
  at("file-columns").textContent = `Columns: ${named.filter(Boolean).join(", ")}. ${most}`;
}

function showStatus(status) {
  const { state, rows, done } = status;
  at("file-progress").max = rows;
  at("file-progress").value = done;
  const ended = state === "done" || state === "stopped";
  const words = { waiting: "Waits for an earlier file.", running: "In work.", done: "Done.", stopped: "Stopped." };
  // Read out in steps of a tenth, not at every row.
  const shown = ended ? percent(done / rows) : `${Math.floor((10 * done) / rows) * 10} %`;
  const text = `${words[state]} ${shown}`;
  if (at("file-state").textContent !== text) at("file-state").textContent = text;
  const labels = Object.entries(status.labels);
  const counts = labels.slice(0, MAX_LABELS).map(([label, count]) => `${label === "" ? "(nothing)" : label} ${count}`);
  if (labels.length > MAX_LABELS) counts.push(`${labels.length - MAX_LABELS} other labels`);
  if (status.abstained) counts.push(`abstained ${status.abstained}`);
  if (status.faults) counts.push(`without an answer ${status.faults}`);
  at("file-counts").textContent = `${done} of ${rows} rows${counts.length ? ": " : ""}${counts.join(" · ")}`;
  at("get-csv").hidden = at("get-jsonl").hidden = !ended || done === 0;
  return ended;
}

async function follow(id) {
  try {
    while (current === id) {
      if (showStatus(await getJson(`/api/uploads/${encodeURIComponent(id)}`))) return;
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  } catch (error) {
    if (current === id) fault(error);
  }
}

async function send(event) {
  event.preventDefault();
  const [file] = at("file").files;
  if (!file || at("send-file").disabled) return;
  fault(null);
  const format = FORMATS[file.name.split(".").pop().toLowerCase()];
  if (!format) return fault(new Error("The name of the file ends neither in .csv, .tsv nor .jsonl."));
  if (limits && file.size > limits.upload_bytes) return fault(new Error("The file is larger than this server takes."));
  const query = new URLSearchParams({ format });
  for (const name of ["question", "context", "id"]) {
    const column = at(`${name}-column`).value.trim();
    if (column) query.set(`${name}_column`, column);
  }
  at("send-file").disabled = true;
  try {
    const type = format === "jsonl" ? "application/x-ndjson" : "text/csv";
    const status = await (await request("POST", `/api/uploads?${query}`, { body: file, type })).json();
    // What was uploaded before is forgotten by the server in its time.
    current = status.id;
    at("file-work").hidden = false;
    showStatus(status);
    follow(status.id);
  } catch (error) {
    fault(error);
  } finally {
    at("send-file").disabled = false;
  }
}

async function download(format) {
  fault(null);
  try {
    const answer = await request("GET", `/api/uploads/${encodeURIComponent(current)}/results?format=${format}`);
    const address = URL.createObjectURL(await answer.blob());
    const link = document.createElement("a");
    link.href = address;
    link.download = `predictions.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  } catch (error) {
    fault(error);
  }
}

async function drop() {
  const id = current;
  current = null;
  fault(null);
  try {
    await request("DELETE", `/api/uploads/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status !== 404) return fault(error);
  }
  at("file-work").hidden = true;
  at("file-form").reset();
  at("file").focus();
}

export function startFiles() {
  at("file-form").addEventListener("submit", send);
  at("get-csv").addEventListener("click", () => download("csv"));
  at("get-jsonl").addEventListener("click", () => download("jsonl"));
  at("drop-file").addEventListener("click", drop);
}
