// The live page of `parle watch`: asks for the state of the runs once a second and draws it. All texts go in as text, never as HTML.
"use strict";

const AXES = ["epochs", "gradient evaluations", "seconds", "bytes sent per replica"];
const COLOURS = 8;
const SVG = "http://www.w3.org/2000/svg";
let axis = AXES[0];
let state = { runs: [], waiting_for: "" };

function make(name, attributes = {}, ...children) {
  const its = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) its.setAttribute(key, value);
  its.append(...children);
  return its;
}

function draw(name, attributes = {}, ...children) {
  const its = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) its.setAttribute(key, value);
  its.append(...children);
  return its;
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, factor] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (size >= factor) return `${+(value / factor).toPrecision(4)} ${unit}`;
  return `${+value.toPrecision(4)}`;
}

function clock(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function evenTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((its) => its * power).find((its) => its >= raw);
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) ticks.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return ticks;
}

function ratioTicks(low, high) {
  const decades = Math.log10(high / low);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const its of decades > 3 ? [1] : [1, 2, 5]) ticks.push(its * 10 ** power);
  return ticks.filter((its) => its >= low && its <= high);
}

// One picture: `lines` are {xs, values, single, colour}.
function picture(title, lines, logarithmic) {
  const [left, right, top, bottom] = [44, 352, 8, 170];
  const points = lines.map((line) => line.values.map((y, index) => [line.xs[index], y]).filter(([x, y]) => x !== null && y !== null));
  const all = points.flat();
  const svg = draw("svg", { viewBox: "0 0 360 200", role: "img", "aria-label": title });
  if (!all.length) return svg;
  let most = 0, low = Infinity, high = -Infinity;
  for (const [x, y] of all) { most = Math.max(most, x); low = Math.min(low, y); high = Math.max(high, y); }
  const log = logarithmic && low > 0;
  if (log) { low /= 1.1; high *= 1.1; } else { const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1; high += room; low = low >= 0 ? Math.max(0, low - room) : low - room; }
  const across = (x) => left + ((right - left) * x) / (most || 1);
  const up = log ? (y) => bottom - ((bottom - top) * Math.log(y / low)) / Math.log(high / low) : (y) => bottom - ((bottom - top) * (y - low)) / (high - low);
  for (const y of log ? ratioTicks(low, high) : evenTicks(low, high, 5)) {
    svg.append(draw("line", { class: "rule", x1: left, x2: right, y1: up(y), y2: up(y) }));
    svg.append(draw("text", { x: left - 4, y: up(y) + 3, "text-anchor": "end" }, short(y)));
  }
  for (const x of evenTicks(0, most || 1, 6)) {
    svg.append(draw("line", { class: "rule", x1: across(x), x2: across(x), y1: top, y2: bottom }));
    svg.append(draw("text", { x: across(x), y: bottom + 12, "text-anchor": "middle" }, short(x)));
  }
  svg.append(draw("line", { class: "frame", x1: left, x2: right, y1: bottom, y2: bottom }), draw("line", { class: "frame", x1: left, x2: left, y1: top, y2: bottom }));
  svg.append(draw("text", { x: (left + right) / 2, y: 196, "text-anchor": "middle" }, axis));
  lines.forEach((line, index) => {
    const its = points[index];
    const group = draw("g", { class: `c${line.colour % COLOURS}${line.single ? " single" : ""}` }, draw("title", {}, line.label));
    group.append(draw("polyline", { points: its.map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`).join(" ") }));
    if (its.length <= (line.single ? 3 : 25)) for (const [x, y] of its) group.append(draw("circle", { cx: across(x), cy: up(y), r: line.single ? 1 : 1.6 }));
    svg.append(group);
  });
  return svg;
}

function figure(title, lines, logarithmic) {
  return make("figure", {}, make("figcaption", {}, title), picture(title, lines, logarithmic));
}

function facts(run) {
  const waiting = Object.values(run.seconds_by_use), all = waiting.flatMap((its) => Object.values(its)).reduce((a, b) => a + b, 0);
  const waited = waiting.reduce((sum, its) => sum + (its.waiting || 0) + (its.exchanging || 0), 0);
  const rows = [
    ["test error", run.error_pct === null ? "not finite" : `${run.error_pct.toFixed(2)} %`],
    ["least", run.best_error_pct === null ? "-" : `${run.best_error_pct.toFixed(2)} %`],
    ["test loss", run.loss === null ? "not finite" : run.loss.toFixed(4)],
    ["epoch", `${short(run.epoch)} of ${short(run.epochs)}`],
    ["rounds", short(run.round)],
    ["sent by each", `${short(run.bytes_sent_per_replica)}B`],
    ["images/s", short(Math.round(run.images_per_second))],
    ["trained", clock(run.seconds)],
    ["waiting, exchanging", all ? `${((100 * waited) / all).toFixed(1)} %` : "-"],
  ];
  if (run.seconds_left !== null) rows.push(["left, about", clock(run.seconds_left)]);
  return make("dl", { class: "figures" }, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function card(run, number, several) {
  const head = make("h2", {}, ...(several ? [make("i", { class: `mark c${number % COLOURS}` })] : []), run.name, make("span", { class: `state ${run.state}` }, run.state));
  const its = make("section", { class: "run", "data-run": run.run }, head, make("p", {}, run.title));
  if (run.message) its.append(make("p", { class: "message" }, run.message));
  if (run.evaluations) {
    its.append(make("progress", { value: run.epoch, max: run.epochs || run.epoch, "aria-label": "epochs" }), facts(run));
    const panels = make("div", { class: "panels" });
    for (const panel of run.panels) panels.append(figure(panel.title, panel.lines.map((line) => ({ ...line, xs: run.spent[axis], colour: number })), panel.logarithmic));
    its.append(panels);
  } else if (run.state === "running" || run.state === "starting") {
    its.append(make("progress", { "aria-label": "not evaluated yet" }));
  }
  return its;
}

function together(runs) {
  const its = document.getElementById("together"), begun = runs.map((run, number) => ({ run, number })).filter(({ run }) => run.evaluations);
  its.hidden = begun.length < 2;
  if (its.hidden) return;
  const panels = make("div", { class: "panels" });
  for (const index of [0, 1]) {
    const title = begun[0].run.panels[index].title;
    const lines = begun.flatMap(({ run, number }) => run.panels[index].lines.filter((line) => !line.single).map((line) => ({ ...line, xs: run.spent[axis], colour: number })));
    const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
    panels.append(figure(title, lines, Math.min(...values) > 0 && Math.max(...values) > 5 * Math.min(...values)));
  }
  its.replaceChildren(make("h2", {}, "Consensus of all runs"), panels);
}

function show() {
  const { runs, waiting_for } = state;
  document.getElementById("runs").replaceChildren(...runs.map((run, number) => card(run, number, runs.length > 1)));
  together(runs);
  const going = runs.filter((run) => run.state === "running");
  document.title = going.length && going[0].evaluations ? `${going[0].error_pct === null ? "?" : going[0].error_pct.toFixed(2)} % | ${going[0].name}` : "parle watch";
  tell(waiting_for);
}

function tell(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = !text;
}

let tag = "";
async function follow() {
  try {
    const answer = await fetch("/state", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      state = await answer.json();
      show();
    } else if (answer.status === 304) {
      tell(state.waiting_for);
    } else {
      tell(`The server answered ${answer.status}.`);
    }
  } catch {
    tell("No answer. Has `parle watch` ended, or the tunnel to it? This page goes on when it is there again.");
  }
  setTimeout(follow, 1000);
}

for (const name of AXES) {
  const input = make("input", { type: "radio", name: "axis", value: name });
  input.checked = name === axis;
  input.addEventListener("change", () => { axis = name; show(); });
  document.getElementById("axes").append(make("label", {}, input, name), " ");
}
follow();
