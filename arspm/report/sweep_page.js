// The sweep's page: progress, best trial, charts, downloads, and updates while the sweep runs.

const SECONDS_BETWEEN = 15;

// --- progress

function updateProgress() {
  const { counts } = results;
  const shown = STATES.filter((state) => counts[state]);
  const ended = counts.finished + counts.stopped + counts.failed;
  const total = Math.max(counts.planned, shown.reduce((sum, state) => sum + counts[state], 0), 1);
  const bar = byId("bar");
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", ended);
  bar.setAttribute("aria-valuetext", `${formatCount(ended)} of ${formatCount(counts.planned)} trials have ended`);
  const order = ["finished", "stopped", "failed", "interrupted", "running", "waiting"].filter((state) => counts[state]);
  bar.replaceChildren(...order.map((state) => make("span", { class: `in-${state}`, style: `flex-grow: ${counts[state]}` })));
  const item = (state) => make("li", {}, make("i", { class: `in-${state}` }), make("b", {}, formatCount(counts[state] ?? 0)), ` ${STATE_WORDS[state]}`);
  byId("counts").replaceChildren(...STATES.map(item));
  const fact = (name, value, about) => make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", {}, about)));
  const eta = { running: formatDuration(results.eta_seconds), finished: "done" }[results.state] ?? "–";
  const etaAbout = {
    running: results.eta_seconds === null ? "unknown until a trial has ended" : "estimated",
    interrupted: "run the same command again to resume",
    stopped: "stopped before the last trial",
    finished: `${formatCount(counts.planned)} trials planned`,
  };
  byId("spent").replaceChildren(
    fact("Time left", eta, etaAbout[results.state] ?? ""),
    fact("Time spent", formatDuration(results.spent_seconds), "wall time of the sweep"),
    fact("CPU time", formatHours(results.cpu_hours), "sum over trials"),
    fact("GPU time", formatHours(results.gpu_hours), "sum over trials"),
  );
  setText(byId("stopped"), results.reason ? `${results.state === "stopped" ? "Stopped: " : ""}${results.reason}` : "");
}

/** Show the age of the results, and whether the page updates itself. */
function updateAge() {
  const age = Math.max(0, Date.now() / 1000 - results.updated);
  const date = new Date(1000 * results.updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const when = age < 45 ? "just now" : age < 5400 ? `${Math.round(age / 60)} min ago` : `on ${date}`;
  const state = {
    running: "while the sweep was running",
    interrupted: "when the sweep was interrupted; run the same command again to resume",
    stopped: "when the sweep had stopped",
    finished: "when the sweep had finished",
  }[results.state];
  const served = unreadable ? "The latest results could not be loaded; the page keeps trying." : "The page updates itself.";
  const next = SERVED ? served : "Reload the page for newer results, or follow the sweep with `arspm dashboard`.";
  setText(byId("last-update"), `Last updated ${when}${state ? `, ${state}` : ""}. ${next}`);
}

// --- best trial

const betterBy = (difference, metric) => `${formatMetric(Math.abs(difference), metric)} ${difference >= 0 ? "better" : "worse"}`;

/** Return a sentence that compares the best trial with the trials that have the paper's values. */
function paperSentence(best) {
  const { numbers, mean, sd } = results.paper;
  const { metric, mode } = results.sweep;
  const early = results.trials.find((trial) => trial.is_paper && trial.state === "stopped" && trial.best !== null);
  if (!numbers.length && early) return `The trial with the paper’s values (trial ${early.number}) was stopped early, at ${formatMetric(early.best, metric)} after ${early.num_epochs === 1 ? "one epoch" : `${early.num_epochs} epochs`}, so its final value is unknown.`;
  if (!numbers.length) return "No trial has the paper’s values, so the best trial cannot be compared with them.";
  const named = numbers.length === 1 ? `trial ${numbers[0]}` : `${numbers.length} trials`;
  if (mean === null) return `The paper’s values (${named}) have no result yet.`;
  if (numbers.length === 1 && numbers[0] === best.number) return "It has the paper’s values.";
  const difference = (mode === "max" ? 1 : -1) * (best.best - mean);
  const own = numbers.includes(best.number) ? "It has the paper’s values. Over all trials with them, they" : "The paper’s values";
  const caution = sd === null ? "A single trial does not show how much results vary between seeds." : "The best of many trials is partly best by chance: train it with other seeds before relying on the difference.";
  const over = `(${named}${sd === null ? "" : ", mean ± standard deviation"})`;
  return `${own} gave ${formatMeanSd({ mean, sd }, metric)} ${over}; the best trial is ${betterBy(difference, metric)}. ${caution}`;
}

function searchSpace(domain) {
  if (domain.kind === "choice") return domain.values.map(formatSetting).join(", ");
  return `${formatNumber(domain.low)} to ${formatNumber(domain.high)}${domain.kind === "loguniform" ? ", logarithmic" : ""}`;
}

function updateBest() {
  const best = results.best === null ? null : trialOf(results.best);
  const { metric, paper, space } = results.sweep;
  const soFar = results.state === "finished" ? "" : " so far";
  setText(byId("best-summary"), best
    ? `Trial ${best.number} is the best${soFar}: ${metricName(metric)} ${formatMetric(best.best, metric)} at epoch ${best.best_epoch}.`
    : "No trial has a result yet.");
  setText(byId("paper-summary"), best ? paperSentence(best) : "");
  const names = shortNames(Object.keys(space));
  byId("space").tBodies[0].replaceChildren(...Object.entries(space).map(([name, domain]) => row(
    heading(names[name], make("span", { class: "about" }, domain.fields.join(", "))),
    textCell("Search space", searchSpace(domain)),
    cell("Best trial", best ? formatSetting(best.sample[name]) : "–"),
    cell("Paper", name === "seed" ? "–" : formatSetting(paper[name])),
  )));
  byId("download-best").disabled = results.config_of_best === null;
}

// --- charts

/** Show a grid of charts; its elements are recreated only when the set of charts changes. */
function chartGrid(id, entries) {
  const grid = byId(id);
  const keys = entries.map(({ key }) => key).join("\n");
  if (grid.dataset.keys !== keys) {
    grid.replaceChildren(...entries.map(({ title, label }) => make("figure", {}, make("figcaption", {}, title), make("div", { class: "chart-container", "data-label": label }))));
    grid.dataset.keys = keys;
  }
  entries.forEach(({ chart }, k) => showChart(grid.children[k].lastChild, chart, "No trial has a result yet."));
}

function updateValues() {
  const numeric = numericOf(results), categorical = categoricalOf(results);
  const { metric } = results.sweep;
  const name = metricName(metric), capitalised = capitalise(name);
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
  updatePairTable(categorical);
  setText(byId("values-note"), [
    numeric.length ? "" : "No dimension is numeric, so there are no slice plots.",
    pairs.length > MAX_PAIRS ? `The first ${MAX_PAIRS} of ${pairs.length} pairs are shown.` : "",
  ].filter(Boolean).join(" "));
}

/** Show a table of two categorical dimensions: mean ± standard deviation of the finished trials, coloured from best to worst. */
function updatePairTable(categorical) {
  const container = byId("crossed");
  container.hidden = categorical.length !== 2 || dimensionsOf(results).length !== 2;
  if (container.hidden) return;
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
  const filled = (each, x, y) => make("td", each.n ? { style: ground(each.mean) } : {}, each.n ? formatMeanSd(each, metric) : "–",
    make("span", { class: "about" }, `${each.n} ${each.n === 1 ? "trial" : "trials"}${paper[across] === x && paper[down] === y ? ", paper" : ""}`));
  const seeds = "seed" in results.sweep.space ? ", over seeds" : "";
  const heads = columnsAcross.map((x) => make("th", { scope: "col" }, formatSetting(x)));
  const lines = rowsDown.map((y, k) => make("tr", {}, make("th", { scope: "row" }, formatSetting(y)), ...cells[k].map((each, j) => filled(each, columnsAcross[j], y))));
  container.replaceChildren(make("table", { class: "crossed" },
    make("caption", {}, `${capitalise(metricName(metric))}: mean ± standard deviation of the finished trials with both values${seeds}. Rows: ${down}; columns: ${across}.`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, `${shortName(down)} \\ ${shortName(across)}`), ...heads)),
    make("tbody", {}, ...lines)));
}

function updateLearning() {
  showChart(byId("chart-learning"), learningChart(results), "No trial has finished an epoch yet.");
}

function updateCharts() {
  const { metric, mode } = results.sweep;
  for (const element of document.querySelectorAll(".metric")) {
    const name = metricName(metric);
    element.textContent = element.classList.contains("capital") ? capitalise(name) : name;
  }
  for (const element of document.querySelectorAll(".better")) element.textContent = mode === "max" ? "higher" : "lower";
  const { bestValue, worstValue } = scaleOf(results);
  for (const element of document.querySelectorAll(".scale")) {
    element.hidden = bestValue === undefined;
    if (bestValue !== undefined) element.replaceChildren(make("span", {}, formatMetric(bestValue, metric)), make("i"), make("span", {}, `${formatMetric(worstValue, metric)} or worse`));
  }
  updateLearning();
  showChart(byId("chart-parallel"), parallelChart(results), "No trial has a result yet.");
  const { importance } = results;
  setText(byId("importance-summary"), importance
    ? `Share of the variance of the ${metricName(metric)} that each dimension explains (fANOVA, ${formatCount(importance.num_trials)} trials). Interactions are excluded.` : "");
  setText(byId("importance-warning"), importance?.warning ?? "");
  showChart(byId("chart-importance"), importanceChart(results), "Parameter importance is unknown: too few trials have a result.");
  updateValues();
}

// --- downloads

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const fileName = (end) => `${results.sweep.name.replace(/[^\w.-]+/g, "_")}-${end}`;

/** Return a CSV cell. An apostrophe is prepended to text that a spreadsheet would interpret as a formula. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return `"${(/^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** Return a CSV with one row per trial: its sample, state, and the metrics of its best epoch. */
function trialsCsv() {
  const { space, metric } = results.sweep;
  const dimensions = Object.keys(space);
  const known = new Set(results.trials.flatMap((trial) => Object.keys(bestEpoch(trial))));
  const figures = [...known].filter((name) => !["epoch", "seconds", metric].includes(name));
  const fields = ["seconds", "cpus", "gpus", "attempts", "is_paper"];
  const atBest = figures.map((name) => `${name}_at_best`);
  const row = (trial) => [
    trial.number, ...dimensions.map((name) => trial.sample[name]), trial.state, trial.reason, trial.best, trial.best_epoch, epochsDone(trial),
    ...fields.map((name) => trial[name]), ...figures.map((name) => bestEpoch(trial)[name]),
  ];
  const table = [["number", ...dimensions, "state", "reason", `best_${metric}`, "best_epoch", "epochs", ...fields, ...atBest], ...results.trials.map(row)];
  return table.map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

// --- updates

function update(fresh) {
  if (JSON.stringify(fresh.sweep.space) !== JSON.stringify(results.sweep.space)) { // another sweep, whose page may not be written yet
    setTimeout(() => location.reload(), 5000);
    return;
  }
  results = fresh;
  for (const trial of results.trials) if (rows.has(trial.number)) fillRow(rows.get(trial.number), trial);
  updateProgress();
  updateBest();
  updateStateFilter();
  updateTable();
  updateComparison();
  updateCharts();
  updatePortraits();
  updateAge();
}

/** Fetch the results, and what the page shows of their details. */
async function refresh() {
  try {
    const fresh = await fetchJson("results.json");
    unreadable = false;
    if (fresh.updated !== results.updated) update(fresh);
    await loadDetails();
  } catch { unreadable = true; /* the next request is in 15 s */ }
  updateAge();
}

/** Fetch the curves and records that are looked at, if the page lacks them, and show them. */
async function loadDetails() {
  if (!SERVED) return;
  const before = curves;
  let numFetched = 0;
  try {
    if (view.learning || view.selected.length) await loadCurves();
    numFetched = await loadRecords(view.selected);
  } catch { unreadable = true; }
  if (curves !== before) updateLearning();
  if (curves !== before || numFetched) updateComparison();
  updateAge();
}

async function downloadTrials() {
  await loadCurves().catch(() => { unreadable = true; });
  download(fileName("trials.csv"), "text/csv", trialsCsv());
}

function listen() {
  byId("filter").addEventListener("input", (event) => { view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean); updateTable(); });
  byId("state-filter").addEventListener("change", (event) => { view.state = event.target.value; updateTable(); });
  byId("sort-by").addEventListener("change", (event) => sortBy(event.target.value, false));
  byId("reverse").addEventListener("click", () => sortBy(view.sort, !view.descending));
  byId("show-more").addEventListener("click", () => { view.numRows += NUM_ROWS; updateTable(); });
  byId("clear-selection").addEventListener("click", () => { view.selected = []; updateComparison(); });
  byId("download-trials").addEventListener("click", downloadTrials);
  byId("download-best").addEventListener("click", () => download(fileName("best.json"), "application/json", JSON.stringify(results.config_of_best, null, 2)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { updateCharts(); updateComparison(); });
  addEventListener("beforeprint", drawAll);
  new IntersectionObserver(([entry]) => { view.learning = entry.isIntersecting; loadDetails(); }, { rootMargin: "600px" }).observe(byId("learning"));
  setInterval(() => (SERVED && !document.hidden ? refresh() : updateAge()), 1000 * SECONDS_BETWEEN);
  document.addEventListener("visibilitychange", () => { if (SERVED && !document.hidden) refresh(); }); // immediately when the tab becomes visible again
}

buildTable();
listen();
update(results);
if (SERVED) refresh(); // the page is written less often than the results
