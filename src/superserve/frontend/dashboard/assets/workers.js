// Workers: what each does now, and what it did at the end of each second.

import { element, shape } from "./dom.js";

const STATES = { b: "busy", i: "idle", s: "slow", a: "away" };
const MOST = 16;

export class Workers {
  constructor() {
    this.list = document.querySelector("#workers ul");
    this.busy = document.getElementById("workers-busy");
  }

  draw(workers, seconds, cursor) {
    const shown = seconds[cursor ?? seconds.length - 1] ?? null;
    this.busy.textContent = shown ? `${Math.round(shown.busy * 100)} % busy` : "–";
    const items = workers.slice(0, MOST).map((worker, index) => this.#item(worker, index, seconds));
    if (workers.length > MOST) items.push(element("li", { class: "hint" }, `and ${workers.length - MOST} more`));
    this.list.replaceChildren(...items);
  }

  #item(worker, index, seconds) {
    const runs = worker.model ? `${worker.subnet}, ${worker.rows} rows` : "";
    const strip = shape("svg", { class: "strip", viewBox: `0 0 ${seconds.length} 1`, preserveAspectRatio: "none",
      "aria-hidden": "true" });
    for (const [letter, state] of Object.entries(STATES)) {
      let d = "";
      seconds.forEach((second, at) => {
        if (second && second.workers[index] === letter) d += `M${at} 0h1v1h-1Z`;
      });
      if (d) strip.append(shape("path", { class: state, d }));
    }
    return element("li", {},
      element("span", { class: `state ${worker.state}` }, `${worker.worker}`),
      element("span", {}, worker.state),
      element("span", { class: "hint" }, runs),
      strip);
  }
}
