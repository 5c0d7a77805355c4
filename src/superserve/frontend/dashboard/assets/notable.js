// Requests that fared less than well, and the explanation of any.

import { ask } from "./api.js";
import { ago, element, milliseconds, subnetColour } from "./dom.js";

const MOST_ROWS = 8;

/** What kept a decision from a more accurate subnet. */
const BOUNDS = {
  slack: "the next better one was too slow for its deadline",
  drain: "the rest of the queue would have been late",
  standing: "a queue would have been left standing",
  burst: "a burst like recent ones would cost more",
  overload: "not everything could be in time",
  rule: "the policy has a rule",
  nothing: "its batch took longer than planned",
};

export class Notable {
  constructor() {
    const place = document.getElementById("notable");
    this.body = place.querySelector("tbody");
    this.none = place.querySelector(".empty");
    this.table = place.querySelector(".scroll");
    this.kinds = new Map();
    this.dialog = document.getElementById("why");
  }

  forget() {
    this.kinds.clear();
  }

  /** Take note of what an answer of `v2/activity` says: of each kind the latest, so that others stay. */
  learn(summaries) {
    for (const summary of summaries) {
      const kind = [summary.model, summary.outcome, summary.reason, summary.bound, summary.subnet].join("|");
      const known = this.kinds.get(kind);
      if (!known || known.arrived < summary.arrived) this.kinds.set(kind, summary);
    }
  }

  draw(model, nowMs, spanMs) {
    const latest = [...this.kinds.values()]
      .filter((summary) => summary.model === model.name && nowMs - Date.parse(summary.arrived) < spanMs)
      .sort((a, b) => b.arrived.localeCompare(a.arrived)).slice(0, MOST_ROWS);
    this.none.hidden = latest.length > 0;
    this.table.hidden = latest.length === 0;
    // A row that somebody points at or has the focus in stays where it is.
    if (this.body.matches(":hover, :focus-within")) return;
    this.body.replaceChildren(...latest.map((summary) => this.#row(model, summary, nowMs)));
  }

  #row(model, summary, nowMs) {
    const degraded = summary.outcome === "served";
    const why = degraded || summary.outcome === "late" ? BOUNDS[summary.bound] : summary.reason;
    const button = element("button", { type: "button", class: "quiet" }, "Why?");
    button.setAttribute("aria-label", `Why? Request ${summary.request_id}`);
    button.addEventListener("click", () => this.explain(summary.request_id));
    const index = model.subnets.findIndex((subnet) => subnet.id === summary.subnet);
    const swatch = element("i", { class: "swatch" });
    if (index >= 0) swatch.style.background = subnetColour(index, model.subnets.length);
    return element("tr", {},
      element("td", { class: "when" }, ago(Date.parse(summary.arrived), nowMs)),
      element("td", {}, element("span", { class: `pill ${degraded ? "degraded" : summary.outcome}` },
        degraded ? "degraded" : summary.outcome)),
      element("td", {}, why ?? ""),
      element("td", { class: "when" }, ...(index < 0 ? [""] : [swatch, `${summary.subnet}, ${summary.accuracy} %`])),
      element("td", {}, button));
  }

  /** Show why a request ended as it did. */
  async explain(requestId) {
    const place = this.dialog.querySelector("div");
    place.replaceChildren(element("p", { class: "hint" }, "Asking"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const { body } = await ask(`v2/decisions/${encodeURIComponent(requestId)}`);
      place.replaceChildren(...explanation(body));
    } catch (error) {
      place.replaceChildren(element("p", { class: "wrong" }, error.message));
    }
  }
}

function explanation(told) {
  const parts = [
    element("p", { class: "hint" }, `Request ${told.request_id} of ${told.model}, policy ${told.policy}`),
    ...told.why.map((sentence) => element("p", {}, sentence)),
  ];
  if (told.would_change.length) {
    parts.push(element("h3", {}, "What would have changed it"),
      element("ul", {}, ...told.would_change.map((sentence) => element("li", {}, sentence))));
  }
  const attempt = told.attempts.at(-1);
  if (attempt) parts.push(candidates(attempt));
  return parts;
}

function candidates(attempt) {
  const heads = ["Subnet", "Accuracy", "Alone", "This batch", "Verdict"];
  const rows = attempt.candidates.map((one) => {
    const cells = [one.subnet, `${one.accuracy} %`, milliseconds(one.head_ms), milliseconds(one.batch_ms), one.verdict];
    return element("tr", one.subnet === attempt.subnet ? { class: "chosen" } : {},
      ...cells.map((cell) => element("td", {}, cell)));
  });
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows)));
}
