// What the page asks of the server, with a token where one is needed.

const KEY = "superserve-token";

/** An answer that is no success; `status` is 0 if there was none. */
export class Refusal extends Error {
  constructor(status, message, requestId = null) {
    super(message);
    this.status = status;
    this.requestId = requestId;
  }
}

export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

/** Ask for JSON. Resolves to `{body, requestId}`, rejects with a `Refusal`. */
export async function ask(path, message = null, timeoutMs = 10_000) {
  const token = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, {
      method: message === null ? "GET" : "POST",
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      body: message === null ? null : JSON.stringify(message),
      signal: AbortSignal.timeout(timeoutMs),
      cache: "no-store",
    });
  } catch (error) {
    throw new Refusal(0, error.name === "TimeoutError" ? "no answer in time" : "the server cannot be reached");
  }
  const requestId = response.headers.get("x-request-id");
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Refusal(response.status, `HTTP ${response.status}, without JSON`, requestId);
  }
  if (!response.ok) throw new Refusal(response.status, body.error ?? `HTTP ${response.status}`, requestId);
  return { body, requestId };
}
