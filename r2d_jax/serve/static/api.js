// Requests to the server that this page came from; in: paths and bodies, out: JSON, or a Fault with one line.

const TOKEN_KEY = "r2d-token";

export class Fault extends Error {
  constructor(status, text, retrySeconds) {
    super(text);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

let askForToken = () => {};
export function onTokenWanted(callback) {
  askForToken = callback;
}

export async function request(method, path, { json, body, type } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (json !== undefined) {
    headers["content-type"] = "application/json";
    body = JSON.stringify(json);
  } else if (type) {
    headers["content-type"] = type;
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Fault(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  let text = `The server answered with ${answer.status}.`;
  try {
    text = (await answer.json()).detail ?? text;
  } catch {
    // No JSON: the status is all there is to tell.
  }
  if (answer.status === 401) askForToken();
  throw new Fault(answer.status, text, Number(answer.headers.get("retry-after")) || null);
}

export async function getJson(path) {
  return (await request("GET", path)).json();
}

export async function postJson(path, json) {
  return (await request("POST", path, { json })).json();
}
