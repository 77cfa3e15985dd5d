// The sweep's page: what it says, its table of trials, the comparison, the downloads, and how it follows the sweep.
//
// Names, labels and reasons come from other people's files: they reach the page as text nodes alone, never as HTML.

const SECONDS_BETWEEN = 15;
const SERVED = location.protocol.startsWith("http");
const NUM_ROWS = matchMedia("(max-width: 700px)").matches ? 20 : 100; // shown at first and with each "show more": 1,000 are slow to lay out
const MAX_CHOSEN = 6;

let results = JSON.parse(document.getElementById("results").textContent);
let columns = [];
let unreadable = false; // whether the last look at results.json failed
const view = { sort: "best", descending: results.sweep.mode === "max", words: [], state: "", numRows: NUM_ROWS, chosen: [] };
const rows = new Map(); // trial's number -> its row, kept so that a focus or a tick stays when figures change

// --- making and filling elements

const byId = (id) => document.getElementById(id);

/** An element. properties: its attributes, and `on...` listeners. children: elements, or text that stays text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const cell = (label, ...children) => make("td", { role: "cell", "data-label": label }, ...children);
const textCell = (label, ...children) => make("td", { role: "cell", "data-label": label, class: "text" }, ...children);
const heading = (...children) => make("th", { scope: "row", role: "rowheader" }, ...children);
const row = (...cells) => make("tr", { role: "row" }, ...cells);
const tell = (element, text) => { element.textContent = text; element.hidden = !text; };

const count = (value) => value.toLocaleString("en");
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const hours = (value) => `${value.toFixed(value < 10 ? 2 : 1)} h`;

/** Seconds as a person says them: 0.3 s, 1 min 31 s, 2 h 05 min, 3 days. */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const two = (value) => String(value).padStart(2, "0");
  const whole = Math.round(seconds), minutes = Math.round(seconds / 60);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min` : `${Math.round(minutes / 1440)} days`;
}

const trialOf = (numberOfIt) => results.trials.find((trial) => trial.number === numberOfIt);
const bestEpoch = (trial) => trial.epochs.find((epoch) => epoch.epoch === trial.best_epoch) ?? {};
const epochsDone = (trial) => trial.epochs.at(-1)?.epoch ?? 0;

// --- progress

function updateProgress() {
  const { counts } = results;
  const shown = STATES.filter((state) => counts[state]);
  const ended = counts.finished + counts.stopped + counts.failed;
  const total = Math.max(counts.planned, shown.reduce((sum, state) => sum + counts[state], 0), 1);
  const bar = byId("bar");
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", ended);
  bar.setAttribute("aria-valuetext", `${count(ended)} of ${count(counts.planned)} trials have ended`);
  const order = ["finished", "stopped", "failed", "interrupted", "running", "waiting"].filter((state) => counts[state]);
  bar.replaceChildren(...order.map((state) => make("span", { class: `in-${state}`, style: `flex-grow: ${counts[state]}` })));
  const item = (state) => make("li", {}, make("i", { class: `in-${state}` }), make("b", {}, count(counts[state] ?? 0)), ` ${STATE_WORDS[state]}`);
  byId("counts").replaceChildren(...STATES.map(item));
  const fact = (name, value, about) => make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", {}, about)));
  const eta = { running: duration(results.eta_seconds), interrupted: "–", finished: "done" }[results.state] ?? "–";
  const etaAbout = {
    running: results.eta_seconds === null ? "not known before a trial has ended" : "estimated",
    interrupted: "the same command goes on",
    finished: `${count(counts.planned)} trials planned`,
  };
  byId("spent").replaceChildren(
    fact("Time left", eta, etaAbout[results.state] ?? ""),
    fact("Time spent", duration(results.spent_seconds), "wall time of the sweep"),
    fact("Processors", hours(results.cpu_hours), "CPU hours of the trials"),
    fact("Accelerators", hours(results.gpu_hours), "GPU hours of the trials"),
  );
}

const STATE_WORDS = { running: "running", waiting: "waiting", finished: "finished", stopped: "stopped early", failed: "failed", interrupted: "interrupted" };

/** How old the figures are, and whether new ones come by themselves. */
function tellAge() {
  const age = Math.max(0, Date.now() / 1000 - results.updated);
  const date = new Date(1000 * results.updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const when = age < 45 ? "just now" : age < 5400 ? `${Math.round(age / 60)} min ago` : `on ${date}`;
  const state = {
    running: "while the sweep was running",
    interrupted: "when the sweep was interrupted; the same command goes on",
    finished: "when the sweep had finished",
  }[results.state];
  const served = unreadable ? "The newest figures could not be read; the page tries again." : "The page renews itself.";
  const next = SERVED ? served : "Open the page again to see newer figures.";
  tell(byId("renewed"), `Last renewed ${when}${state ? `, ${state}` : ""}. ${next}`);
}

// --- the best trial

const betterBy = (difference, metric) => `${figure(Math.abs(difference), metric)} ${difference >= 0 ? "better" : "worse"}`;

/** How the best trial compares with those that have the paper's values. */
function paperSentence(best) {
  const { numbers, mean, sd } = results.paper;
  const { metric, mode } = results.sweep;
  const early = results.trials.find((trial) => trial.is_paper && trial.state === "stopped" && trial.best !== null);
  if (!numbers.length && early) return `The paper’s values (trial ${early.number}) were stopped early, at ${figure(early.best, metric)} after ${early.epochs.length === 1 ? "one epoch" : `${early.epochs.length} epochs`}: what they give at their end was not measured.`;
  if (!numbers.length) return "No trial has the paper’s values, so nothing here says whether the best one does better than they do.";
  const named = numbers.length === 1 ? `trial ${numbers[0]}` : `${numbers.length} trials`;
  if (mean === null) return `The paper’s values (${named}) have no figure yet.`;
  if (numbers.length === 1 && numbers[0] === best.number) return "It has the paper’s values itself.";
  const difference = (mode === "max" ? 1 : -1) * (best.best - mean);
  const own = numbers.includes(best.number) ? "It has the paper’s values itself, which over all their trials" : "The paper’s values";
  const luck = sd === null ? "One trial of them says nothing of chance." : "The best of many is best by chance too: train it with other seeds before you rely on the difference.";
  const over = `(${named}${sd === null ? "" : ", mean ± standard deviation"})`;
  return `${own} gave ${spread({ mean, sd }, metric)} ${over}; the best trial is ${betterBy(difference, metric)}. ${luck}`;
}

function searched(domain) {
  if (domain.kind === "choice") return domain.values.map(setting).join(", ");
  return `${number(domain.low)} to ${number(domain.high)}${domain.kind === "loguniform" ? ", logarithmic" : ""}`;
}

function updateBest() {
  const best = results.best === null ? null : trialOf(results.best);
  const { metric, paper, space } = results.sweep;
  const so = results.state === "finished" ? "" : " so far";
  tell(byId("best-told"), best
    ? `Trial ${best.number} is the best${so}: ${metricName(metric)} ${figure(best.best, metric)} at epoch ${best.best_epoch}.`
    : "No trial has a figure yet.");
  tell(byId("paper-told"), best ? paperSentence(best) : "");
  const names = shortNames(Object.keys(space));
  byId("space").tBodies[0].replaceChildren(...Object.entries(space).map(([name, domain]) => row(
    heading(names[name], make("span", { class: "about" }, domain.fields.join(", "))),
    textCell("Searched", searched(domain)),
    cell("Best trial", best ? setting(best.sample[name]) : "–"),
    cell("Paper", name === "seed" ? "–" : setting(paper[name])),
  )));
  byId("download-best").disabled = results.config_of_best === null;
}

// --- the table of trials

/** name, label and title of each column, and what a trial has there: `value` sorts and `text` is shown. */
function columnsOf() {
  const { metric, space } = results.sweep;
  const names = shortNames(Object.keys(space));
  const sampled = Object.keys(space).map((dimension) => ({
    name: `sample ${dimension}`, label: names[dimension], title: dimension, isText: space[dimension].kind === "choice" && dimension !== "seed",
    text: (trial) => setting(trial.sample[dimension]), value: (trial) => trial.sample[dimension] ?? null,
  }));
  return [
    { name: "number", label: "Trial", isText: true, value: (trial) => trial.number },
    ...sampled,
    { name: "state", label: "State", isText: true, value: (trial) => `${trial.state} ${trial.reason}` },
    {
      name: "best", label: `Best ${isDegrees(metric) ? "°" : "value"}`, title: metricName(metric),
      text: (trial) => figure(trial.best, metric).replace("°", ""), value: (trial) => trial.best,
    },
    { name: "best_epoch", label: "Best epoch", text: (trial) => setting(trial.best_epoch), value: (trial) => trial.best_epoch },
    { name: "epochs", label: "Epochs", text: (trial) => count(epochsDone(trial)), value: epochsDone },
    { name: "seconds", label: "Time", text: (trial) => duration(trial.seconds), value: (trial) => trial.seconds },
  ];
}

function buildTable() {
  columns = columnsOf();
  const header = columns.map(({ name, label, title, isText }) => make("th", { scope: "col", role: "columnheader", class: isText ? "text" : "", "data-column": name },
    make("button", { type: "button", title: title ?? label, onclick: () => sortBy(name) }, label)));
  byId("trial-table").tHead.replaceChildren(row(...header));
  byId("sort-by").replaceChildren(...columns.map(({ name, label, title }) => make("option", { value: name }, title ?? label)));
  rows.clear();
}

function sortBy(name, descending) {
  view.descending = descending ?? (view.sort === name ? !view.descending : name === "best" && results.sweep.mode === "max");
  view.sort = name;
  updateTable();
}

const collator = new Intl.Collator("en", { numeric: true });

/** An order of trials by a column; those without a value come last either way. */
function byColumn({ value }, descending) {
  const sign = descending ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.number - b.number;
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y)) || a.number - b.number;
  };
}

/** All that a filter's words are looked for in. */
function haystack(trial) {
  const pairs = [...Object.entries(trial.sample), ...Object.entries(trial.changes)].map(([name, value]) => `${name}=${value} ${value}`);
  const tags = [trial.number === results.best ? "best" : "", trial.is_paper ? "paper" : ""];
  const texts = columns.map((column) => column.text?.(trial) ?? "");
  return [`trial ${trial.number}`, trial.state, trial.reason, ...tags, ...pairs, ...texts].join(" ").toLowerCase();
}

function fillRow(tr, trial) {
  const tags = [trial.number === results.best ? "best" : "", trial.is_paper ? "paper" : ""].filter(Boolean);
  tr.cells[0].lastChild.replaceChildren(...tags.map((tag) => make("span", { class: "tag" }, tag)));
  tr.classList.toggle("own", trial.number === results.best);
  columns.forEach(({ name, text }, k) => {
    if (text) tr.cells[k].textContent = text(trial);
    if (name === "state") {
      const state = make("span", { class: "state" }, make("i", { class: `in-${trial.state}` }), STATE_WORDS[trial.state] ?? trial.state);
      tr.cells[k].replaceChildren(state, make("span", { class: "about reason" }, trial.reason));
    }
  });
}

function rowOf(trial) {
  if (!rows.has(trial.number)) {
    const box = make("input", { type: "checkbox", "aria-label": `Compare trial ${trial.number}`, onchange: (event) => choose(trial.number, event.target.checked) });
    const tr = row(heading(make("label", {}, box, make("span", {}, String(trial.number))), make("span", { class: "tags" })));
    for (const { label, isText } of columns.slice(1)) tr.append(isText ? textCell(label) : cell(label));
    rows.set(trial.number, tr);
    fillRow(tr, trial);
  }
  return rows.get(trial.number);
}

function updateTable() {
  const column = columns.find(({ name }) => name === view.sort);
  const found = results.trials
    .filter((trial) => !view.state || trial.state === view.state)
    .filter((trial) => !view.words.length || view.words.every((word) => haystack(trial).includes(word)))
    .sort(byColumn(column, view.descending));
  const shown = found.slice(0, view.numRows);
  const body = byId("trial-table").tBodies[0], wanted = shown.map(rowOf);
  if (wanted.length !== body.rows.length || wanted.some((tr, k) => tr !== body.rows[k])) {
    const focused = document.activeElement; // a row that is moved loses the focus
    body.replaceChildren(...wanted);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  for (const th of byId("trial-table").tHead.querySelectorAll("th")) {
    if (th.dataset.column === view.sort) th.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  byId("sort-by").value = view.sort;
  const all = results.trials.length;
  const matching = found.length === all ? "" : `, ${count(found.length)} match`;
  tell(byId("shown"), !all ? "No trial has begun." : found.length ? `${count(shown.length)} of ${count(all)} trials${matching}.` : "No trial matches.");
  tell(byId("show-more"), shown.length < found.length ? `Show ${Math.min(NUM_ROWS, found.length - shown.length)} more` : "");
}

function updateStateFilter() {
  const present = STATES.filter((state) => state === view.state || results.trials.some((trial) => trial.state === state));
  const numberIn = (state) => results.trials.filter((trial) => trial.state === state).length;
  const options = [["", "all"], ...present.map((state) => [state, `${STATE_WORDS[state]} (${numberIn(state)})`])];
  byId("state-filter").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  byId("state-filter").value = view.state;
}

// --- comparison

function choose(numberOfIt, isChosen) {
  view.chosen = view.chosen.filter((each) => each !== numberOfIt);
  if (isChosen) view.chosen.push(numberOfIt);
  updateComparison();
}

function updateComparison() {
  const trials = view.chosen.map(trialOf).filter(Boolean);
  for (const [numberOfIt, tr] of rows) {
    const box = tr.querySelector("input");
    box.checked = view.chosen.includes(numberOfIt);
    box.disabled = !box.checked && trials.length >= MAX_CHOSEN;
  }
  byId("comparison-told").hidden = trials.length > 0;
  byId("compared").hidden = !trials.length;
  if (!trials.length) return;
  const { metric, space } = results.sweep;
  const table = byId("comparison-table");
  const swatch = (k) => make("i", { class: "swatch", style: `background: var(${CHOSEN_COLOURS[k]})` });
  const heads = trials.map((trial, k) => make("th", { scope: "col" }, swatch(k), `Trial ${trial.number}`));
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "text" }, ""), ...heads));
  const line = (name, texts, isSet) => {
    const differs = isSet && new Set(texts).size > 1;
    const told = differs ? [make("span", { class: "sr" }, " differs")] : [];
    return make("tr", differs ? { class: "differs" } : {}, make("th", { scope: "row" }, name, ...told), ...texts.map((text) => make("td", {}, text)));
  };
  const names = shortNames(Object.keys(space));
  const figures = [...new Set(trials.flatMap((trial) => Object.keys(bestEpoch(trial))))].filter((name) => !["epoch", "seconds", metric].includes(name));
  table.tBodies[0].replaceChildren(
    ...Object.keys(space).map((name) => line(names[name], trials.map((trial) => setting(trial.sample[name])), true)),
    line("State", trials.map((trial) => STATE_WORDS[trial.state] ?? trial.state)),
    line(`Best ${metricName(metric)}`, trials.map((trial) => figure(trial.best, metric))),
    line("Best epoch", trials.map((trial) => setting(trial.best_epoch))),
    line("Epochs", trials.map((trial) => count(epochsDone(trial)))),
    line("Time", trials.map((trial) => duration(trial.seconds))),
    ...figures.map((name) => line(metricName(name), trials.map((trial) => figure(bestEpoch(trial)[name], name)))),
  );
  show(byId("chart-chosen"), chosenChart(results, trials), "None of them has learnt for an epoch.");
  const pictured = trials.filter((trial) => results.pictures.trials[trial.number]);
  byId("chosen-portraits").replaceChildren(...(pictured.length && results.pictures.real ? [realStrip()] : []), ...pictured.map(strip));
}

// --- portraits

const picture = (uri, alt) => make("img", { src: uri, alt });

function realStrip() {
  const told = `Real faces of ${results.sweep.clips.join(", ")}`;
  return make("figure", { class: "real" }, make("figcaption", {}, make("b", {}, "Real faces")), picture(results.pictures.real, told));
}

function strip(trial) {
  const values = Object.entries(trial.sample).map(([name, value]) => `${shortName(name)} ${setting(value)}`).join(", ");
  const told = make("figcaption", {}, make("b", {}, `Trial ${trial.number}`), ` ${figure(trial.best, results.sweep.metric)}`, make("span", { class: "about" }, values));
  return make("figure", {}, told, picture(results.pictures.trials[trial.number], `Portraits by trial ${trial.number}`));
}

function updatePortraits() {
  const { real, trials } = results.pictures;
  const { clips } = results.sweep;
  const pictured = ranked(results).filter((trial) => trials[trial.number]);
  const speakers = clips.length === 1 ? "validation speaker" : `${clips.length} validation speakers`;
  const part = pictured.length < ranked(results).length ? `, ${pictured.length} of ${count(ranked(results).length)}` : "";
  tell(byId("portraits-told"), pictured.length
    ? `The same ${speakers} for every trial, drawn at its best epoch; the best trial first${part}.`
    : "No trial has drawn portraits yet.");
  byId("faces-of-trials").replaceChildren(...(real ? [realStrip()] : []), ...pictured.map(strip));
  byId("clips").replaceChildren(...clips.map((clip) => make("li", { class: "clip" }, clip)));
}

// --- importance, and value by value

/** Figures with a chart each, in a grid that is filled again only when there are others. */
function chartGrid(id, entries) {
  const grid = byId(id);
  const wanted = entries.map(({ key }) => key).join("\n");
  if (grid.dataset.keys !== wanted) {
    grid.replaceChildren(...entries.map(({ title, label }) => make("figure", {}, make("figcaption", {}, title), make("div", { class: "place", "data-label": label }))));
    grid.dataset.keys = wanted;
  }
  entries.forEach(({ chart }, k) => show(grid.children[k].lastChild, chart, "No trial has a figure yet."));
}

function updateValues() {
  const numeric = numericOf(results), categorical = categoricalOf(results);
  const { metric } = results.sweep;
  const name = metricName(metric), capitalised = capital(name);
  const label = (by) => `${name} of each trial by ${by}`;
  const pairs = numeric.flatMap((first, k) => numeric.slice(k + 1).map((second) => [first, second]));
  chartGrid("slices", numeric.map((each) => ({
    key: each[0], title: `${capitalised} by ${each[0]}`, label: label(each[0]), chart: sliceChart(results, each),
  })));
  chartGrid("pairs", pairs.slice(0, MAX_PAIRS).map(([first, second]) => ({
    key: `${first[0]}\t${second[0]}`, title: `${shortName(second[0])} against ${shortName(first[0])}, coloured by the ${name}`,
    label: `Trials by ${first[0]} and ${second[0]}`, chart: pairChart(results, first, second),
  })));
  chartGrid("categories", categorical.map((each) => ({
    key: each[0], title: `${capitalised} by ${each[0]}; diamonds are mean ± standard deviation of the finished trials`,
    label: label(each[0]), chart: categoryChart(results, each),
  })));
  updateCrossed(categorical);
  tell(byId("values-told"), [
    numeric.length ? "" : "No dimension is a number, so there are no slices.",
    pairs.length > MAX_PAIRS ? `The first ${MAX_PAIRS} of ${pairs.length} pairs are drawn.` : "",
  ].filter(Boolean).join(" "));
}

/** Two categorical dimensions crossed: mean ± standard deviation of the finished trials, tinted from best to worst. */
function updateCrossed(categorical) {
  const place = byId("crossed");
  place.hidden = categorical.length !== 2 || dimensionsOf(results).length !== 2;
  if (place.hidden) return;
  const [[across, { values: columnsAcross }], [down, { values: rowsDown }]] = [...categorical].sort((a, b) => a[1].values.length - b[1].values.length);
  const { metric, paper, mode } = results.sweep;
  const finished = results.trials.filter((trial) => trial.state === "finished" && trial.best !== null);
  const valuesAt = (x, y) => finished.filter(({ sample }) => sample[across] === x && sample[down] === y).map((trial) => trial.best);
  const cells = rowsDown.map((y) => columnsAcross.map((x) => meanAndSd(valuesAt(x, y))));
  const means = cells.flat().filter((each) => each.n).map((each) => each.mean);
  const low = Math.min(...means), high = Math.max(...means);
  const tint = (mean) => (high > low ? (mode === "max" ? high - mean : mean - low) / (high - low) : 0);
  const style = getComputedStyle(document.documentElement);
  const ground = (mean) => `background: ${mixed(rgb("--page", style), scaleRgb(tint(mean), style), 0.3)}`;
  const filled = (each, x, y) => make("td", each.n ? { style: ground(each.mean) } : {}, each.n ? spread(each, metric) : "–",
    make("span", { class: "about" }, `${each.n} ${each.n === 1 ? "trial" : "trials"}${paper[across] === x && paper[down] === y ? ", paper" : ""}`));
  const seeds = "seed" in results.sweep.space ? ", over seeds" : "";
  const heads = columnsAcross.map((x) => make("th", { scope: "col" }, setting(x)));
  const lines = rowsDown.map((y, k) => make("tr", {}, make("th", { scope: "row" }, setting(y)), ...cells[k].map((each, j) => filled(each, columnsAcross[j], y))));
  place.replaceChildren(make("table", { class: "crossed" },
    make("caption", {}, `${capital(metricName(metric))}: mean ± standard deviation of the finished trials with both values${seeds}. Down: ${down}; across: ${across}.`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, `${shortName(down)} \\ ${shortName(across)}`), ...heads)),
    make("tbody", {}, ...lines)));
}

function updateCharts() {
  const { metric, mode } = results.sweep;
  for (const element of document.querySelectorAll(".metric")) {
    const name = metricName(metric);
    element.textContent = element.classList.contains("capital") ? capital(name) : name;
  }
  for (const element of document.querySelectorAll(".better")) element.textContent = mode === "max" ? "higher" : "lower";
  const { near, far } = scaleOf(results);
  for (const element of document.querySelectorAll(".scale")) {
    element.hidden = near === undefined;
    if (near !== undefined) element.replaceChildren(make("span", {}, figure(near, metric)), make("i"), make("span", {}, `${figure(far, metric)} or worse`));
  }
  show(byId("chart-learning"), learningChart(results), "No trial has learnt for an epoch yet.");
  show(byId("chart-parallel"), parallelChart(results), "No trial has a figure yet.");
  const { importance } = results;
  tell(byId("importance-told"), importance
    ? `How much of the spread of the ${metricName(metric)} each dimension explains (fANOVA, over ${count(importance.num_trials)} trials).` : "");
  tell(byId("importance-warning"), importance?.warning ?? "");
  show(byId("chart-importance"), importanceChart(results), "The importance of the dimensions is not known: too few trials have a figure.");
  updateValues();
}

// --- downloads

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const fileName = (end) => `${results.sweep.name.replace(/[^\w.-]+/g, "_")}-${end}`;

/** A CSV cell. Text that a spreadsheet would take for a formula gets an apostrophe before it. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return `"${(/^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** All trials, a row each: what was sampled, how it ended, and the figures of its best epoch. */
function trialsCsv() {
  const { space, metric } = results.sweep;
  const dimensions = Object.keys(space);
  const known = new Set(results.trials.flatMap((trial) => trial.epochs.flatMap(Object.keys)));
  const figures = [...known].filter((name) => !["epoch", "seconds", metric].includes(name));
  const plainly = ["seconds", "cpus", "gpus", "attempts", "is_paper"];
  const atBest = figures.map((name) => `${name}_at_best`);
  const row = (trial) => [
    trial.number, ...dimensions.map((name) => trial.sample[name]), trial.state, trial.reason, trial.best, trial.best_epoch, epochsDone(trial),
    ...plainly.map((name) => trial[name]), ...figures.map((name) => bestEpoch(trial)[name]),
  ];
  const table = [["number", ...dimensions, "state", "reason", `best_${metric}`, "best_epoch", "epochs", ...plainly, ...atBest], ...results.trials.map(row)];
  return table.map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

// --- the whole page, and how it follows the sweep

function update(fresh) {
  if (JSON.stringify(fresh.sweep.space) !== JSON.stringify(results.sweep.space)) return location.reload(); // another sweep
  results = fresh;
  for (const trial of results.trials) if (rows.has(trial.number)) fillRow(rows.get(trial.number), trial);
  updateProgress();
  updateBest();
  updateStateFilter();
  updateTable();
  updateComparison();
  updateCharts();
  updatePortraits();
  tellAge();
}

/** Read results.json; the server answers 304 where nothing is new, and the browser then has it already. */
async function renew() {
  let fresh = null;
  try {
    const response = await fetch("results.json", { cache: "no-cache" });
    if (!response.ok) throw new Error(response.statusText);
    fresh = await response.json();
  } catch { /* told below; the next look is in 15 s */ }
  unreadable = fresh === null;
  if (fresh && fresh.updated !== results.updated) update(fresh);
  tellAge();
}

function listen() {
  byId("filter").addEventListener("input", (event) => { view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean); updateTable(); });
  byId("state-filter").addEventListener("change", (event) => { view.state = event.target.value; updateTable(); });
  byId("sort-by").addEventListener("change", (event) => sortBy(event.target.value, false));
  byId("reverse").addEventListener("click", () => sortBy(view.sort, !view.descending));
  byId("show-more").addEventListener("click", () => { view.numRows += NUM_ROWS; updateTable(); });
  byId("choose-none").addEventListener("click", () => { view.chosen = []; updateComparison(); });
  byId("download-trials").addEventListener("click", () => download(fileName("trials.csv"), "text/csv", trialsCsv()));
  byId("download-best").addEventListener("click", () => download(fileName("best.json"), "application/json", JSON.stringify(results.config_of_best, null, 2)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { updateCharts(); updateComparison(); });
  addEventListener("beforeprint", drawAll);
  setInterval(() => (SERVED && !document.hidden ? renew() : tellAge()), 1000 * SECONDS_BETWEEN);
  document.addEventListener("visibilitychange", () => { if (SERVED && !document.hidden) renew(); }); // at once for who comes back
}

buildTable();
listen();
update(results);
