// The cards with charts: what each shows of a second of the model that is chosen.

import { Band, Chart, nice } from "./chart.js";
import { milliseconds, percent, short, subnetColour } from "./dom.js";

const byId = (id) => document.getElementById(id);

export class Overview {
  /** `onCursor(back)`: so many seconds before now are pointed at, null if none are. */
  constructor(onCursor) {
    this.charts = this.#charts(onCursor);
    this.band = new Band(byId("subnets"), "Subnets in use", onCursor);
  }

  /** From now on this model is shown. */
  use(model) {
    this.model = model;
    this.things = model.subnets.map((subnet, index) => ({
      label: `${subnet.id}: ${subnet.accuracy} %`,
      detail: `${subnet.accuracy} %`,
      colour: subnetColour(index, model.subnets.length),
    }));
  }

  /** `seconds`: the oldest first, null where nothing is known; `cursor`: an index into them, or null. */
  draw(seconds, cursor) {
    for (const chart of this.charts) chart.draw(seconds, cursor);
    const amounts = (second) => second.models[this.model.name]?.subnets ?? this.things.map(() => 0);
    this.band.draw(this.things, seconds, amounts, cursor, (told) => this.#tellSubnets(told));
  }

  #charts(onCursor) {
    const of = (key) => (second) => second.models[this.model.name]?.[key] ?? null;
    const best = () => this.model.subnets.at(-1).accuracy;
    const refused = (second) => {
      const model = second.models[this.model.name];
      return model ? model.expired + model.rejected + model.failed : null;
    };
    const whole = (value) => `${Math.round(value * 100)} %`;
    const counts = (values) => [0, nice(Math.max(1, ...values))];
    return [
      new Chart(byId("requests"), {
        title: "Requests",
        lines: [
          { label: "offered", of: of("offered") },
          { label: "in time", of: of("served"), shaded: true },
          { label: "refused", of: refused },
        ],
        tell: (second) => `${short(of("offered")(second))} /s`,
        note: (second) => `${short(of("served")(second))} in time, ${short(refused(second))} refused`,
        bounds: counts,
        axis: short,
      }, onCursor),
      new Chart(byId("attainment"), {
        title: "SLO attainment",
        lines: [{ label: "in time", of: of("attainment"), shaded: true }],
        tell: (second) => percent(of("attainment")(second)),
        note: () => "served within the deadline, of all that ended",
        bounds: (values) => [Math.min(0.9, Math.floor(Math.min(1, ...values) * 10) / 10), 1],
        axis: whole,
      }, onCursor),
      new Chart(byId("accuracy"), {
        title: "Accuracy",
        lines: [{ label: "served", of: of("accuracy"), shaded: true }],
        tell: (second) => (of("accuracy")(second) === null ? "–" : `${of("accuracy")(second).toFixed(2)} %`),
        note: (second) => (of("given_up")(second) === null ? ""
          : `${of("given_up")(second).toFixed(2)} points given up, of ${best()} %`),
        bounds: () => {
          const least = this.model.subnets[0].accuracy;
          const low = Math.floor(least - 1);
          return [low, Math.ceil(best() + (best() - low) * 0.05)];
        },
        reference: best,
        axis: (value) => `${value} %`,
      }, onCursor),
      new Chart(byId("latency"), {
        title: "Latency",
        lines: [{ label: "p50", of: of("p50_ms") }, { label: "p99", of: of("p99_ms") }],
        tell: (second) => milliseconds(of("p99_ms")(second)),
        note: (second) => `p99; p50 ${milliseconds(of("p50_ms")(second))}; SLO ${milliseconds(this.model.slo_ms)}`,
        bounds: (values) => [0, Math.max(this.model.slo_ms * 1.1, ...values)],
        reference: () => this.model.slo_ms,
        axis: (value) => (value ? milliseconds(value) : "0"),
      }, onCursor),
      new Chart(byId("queue"), {
        title: "Queue",
        lines: [{ label: "waiting", of: of("queued"), shaded: true }],
        tell: (second) => short(of("queued")(second)),
        note: () => "requests waiting",
        bounds: counts,
        axis: short,
      }, onCursor),
      new Chart(byId("batch"), {
        title: "Batch size",
        lines: [{ label: "rows", of: of("batch_rows"), shaded: true }],
        tell: (second) => short(of("batch_rows")(second)),
        note: () => "rows, mean",
        bounds: counts,
        axis: short,
      }, onCursor),
      new Chart(byId("headroom"), {
        title: "Burst headroom",
        lines: [{ label: "left", of: (second) => second.headroom, shaded: true }],
        tell: (second) => whole(second.headroom),
        note: () => "left of what the fastest subnets can take",
        bounds: (values) => [Math.min(0, ...values), 1],
        axis: whole,
      }, onCursor),
    ];
  }

  #tellSubnets(amounts) {
    const used = amounts.filter((amount) => amount > 0).length;
    if (!used) return ["–", "no requests"];
    const most = amounts.indexOf(Math.max(...amounts));
    const { id, accuracy } = this.model.subnets[most];
    return [`${used} of ${amounts.length}`, `answered in this second, most often ${id} with ${accuracy} %`];
  }
}
