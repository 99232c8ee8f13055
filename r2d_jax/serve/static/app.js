// The page; in: what the server serves, out: its parts set up, its state, and the token asked for where one is wanted.

import { getJson, keepToken, onTokenWanted } from "./api.js";
import { setFileFacts, startFiles } from "./file.js";
import { setFacts, startNotes } from "./note.js";
import { show } from "./text.js";

const at = (id) => document.getElementById(id);
const WORDS = {
  starting: "preparing the model",
  ready: "ready",
  stopping: "stopping",
  failed: "the model could not be prepared",
  gone: "the server does not answer",
};
const SOON_MS = 1500;
const LATER_MS = 15000;

function showState(state) {
  if (at("state").dataset.state === state && at("state").textContent === WORDS[state]) return;
  at("state").dataset.state = state;
  at("state").textContent = WORDS[state] ?? state;
}

// The liveness route says the state with a status that is no error while the model is prepared.
async function watch() {
  let state = "gone";
  try {
    state = (await getJson("/health/live")).state;
  } catch (error) {
    if (error.status === 503) state = "failed";
  }
  showState(state);
  setTimeout(watch, state === "ready" ? LATER_MS : SOON_MS);
}

async function load() {
  try {
    const facts = await getJson("/api/model");
    show(at("model-name"), facts.name);
    at("version").textContent = facts.version;
    setFacts(facts);
    setFileFacts(facts);
    at("token-form").hidden = true;
    at("main").hidden = false;
  } catch (error) {
    if (error.status !== 401) setTimeout(load, SOON_MS);
  }
}

onTokenWanted(() => {
  at("main").hidden = true;
  at("token-form").hidden = false;
  at("token").focus();
});
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value.trim());
  at("token").value = "";
  load();
});
startNotes();
startFiles();
load();
watch();
