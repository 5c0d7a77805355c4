// Packed subnets: what they take of the budget beside the one copy of the weights, and what each of the front is about.

import { bytes, element, percent, subnetColour } from "./dom.js";

const byId = (id) => document.getElementById(id);

/** A budget above this is none: more than any machine has. */
const UNBOUNDED = 2 ** 60;

export class Packed {
  constructor() {
    this.card = byId("packed");
    this.size = byId("packed-size");
    this.sizeNote = byId("packed-size-note");
    this.share = byId("packed-share");
    this.shareNote = byId("packed-share-note");
    this.bar = byId("packed-bar");
    this.front = this.card.querySelector("ol");
    this.reasons = this.card.querySelector("ul");
  }

  /**
   * `reports`: what `v2/activity` says of models on the packed engine, by name; `seconds`, `cursor`: as charts have them.
   */
  draw(model, reports, seconds, cursor) {
    const report = reports[model.name];
    this.card.hidden = !report;
    if (!report) return;
    const others = Object.values(reports).reduce((sum, { nbytes }) => sum + nbytes, -report.nbytes);
    const bounded = report.budget < UNBOUNDED;
    this.size.textContent = bounded ? `${bytes(report.nbytes)} of ${bytes(report.budget)}` : bytes(report.nbytes);
    this.sizeNote.textContent = `beside the ${bytes(report.weights)} of weights that all subnets share`
      + (bounded ? "" : "; no budget is set") + (others ? `; ${bytes(others)} are other models'` : "");
    this.#drawShare(model, seconds, cursor);
    this.#drawBar(report, others, bounded);
    this.front.replaceChildren(...report.front.map((subnet, index) => this.#subnet(model, subnet, index)));
    this.reasons.replaceChildren(...report.front.filter(({ reason }) => reason).map(({ id, reason }) =>
      element("li", { title: reason }, `${id} is refused: ${reason}`)));
  }

  #drawShare(model, seconds, cursor) {
    const shown = (cursor === null ? seconds : [seconds[cursor]]).map((second) => second?.models[model.name] ?? null);
    const sum = (of) => shown.reduce((total, second) => total + (second ? of(second) : 0), 0);
    const answered = sum(({ subnets }) => subnets.reduce((total, amount) => total + amount, 0));
    this.share.textContent = answered ? percent(Math.min(1, sum(({ packed }) => packed ?? 0) / answered)) : "–";
    const span = cursor === null ? (seconds.length > 60 ? "these minutes" : "this minute") : "this second";
    this.shareNote.textContent = `of the requests of ${span} were answered packed`;
  }

  #drawBar(report, others, bounded) {
    const known = report.front.reduce((sum, { nbytes }) => sum + (nbytes ?? 0), 0);
    const whole = Math.max(bounded ? report.budget : known + others, 1);
    const part = (amount, attributes) => {
      const segment = element("i", attributes);
      segment.style.width = `${Math.min(1, amount / whole) * 100}%`;
      return segment;
    };
    const count = report.front.length;
    const parts = report.front.flatMap((subnet, index) => {
      if (subnet.state !== "resident") return [];
      const segment = part(subnet.nbytes, { title: `${subnet.id}: ${bytes(subnet.nbytes)}` });
      segment.style.background = subnetColour(index, count);
      return [segment];
    });
    this.bar.replaceChildren(...parts, part(others, { class: "others", title: `other models: ${bytes(others)}` }));
    this.bar.setAttribute("aria-label", `${this.size.textContent}: ${report.subnets.join(", ") || "nothing is resident"}`);
  }

  #subnet(model, { id, state, nbytes }, index) {
    const item = element("li", { class: state.replace(" ", "-") },
      element("b", {}, `${model.subnets[index].accuracy} %`),
      element("span", { class: "hint" }, id),
      element("span", { class: "what" }, state),
      element("span", { class: "hint" }, nbytes === null ? "" : bytes(nbytes)));
    item.style.setProperty("--own", subnetColour(index, model.subnets.length));
    return item;
  }
}
