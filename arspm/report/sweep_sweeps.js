// Several sweeps side by side: those that the same server has, and `results.json` files that the user opens.

const others = new Map(); // name -> the results of another sweep
let served = null; // names of the server's sweeps; null before they are known

const otherResults = () => view.sweeps.map((name) => [name, others.get(name)]).filter(([, each]) => each);
const isComparable = ({ sweep }) => sweep.metric === results.sweep.metric && sweep.mode === results.sweep.mode;

/** Return whether a value has what the comparison reads of another sweep's results. */
function isResults(value) {
  const isTrial = (trial) => Number.isFinite(trial?.number) && (trial.best === null || Number.isFinite(trial.best));
  return typeof value?.sweep?.metric === "string" && typeof value.sweep.name === "string" && Array.isArray(value.trials) && value.trials.every(isTrial) && typeof value.counts === "object";
}

/** Fetch the names of the server's sweeps and the results of those that are compared. */
async function loadOthers() {
  if (!SERVED) return;
  if (served === null) {
    const response = await fetch("../sweeps.json", { cache: "no-cache" });
    served = response.ok ? await response.json() : []; // another web server has no such list
  }
  const own = decodeURIComponent(location.pathname.split("/").at(-2));
  served = served.filter((name) => name !== own);
  await Promise.all(view.sweeps.filter((name) => served.includes(name)).map(async (name) => {
    const found = await fetchJson(`../${encodeURIComponent(name)}/results.json`);
    if (isResults(found)) others.set(name, found);
  }));
}

async function openResults(file) {
  let found = null;
  try { found = JSON.parse(await file.text()); } catch { /* not JSON */ }
  if (!isResults(found)) { setText(byId("sweeps-note"), `${file.name} is not the results.json of a sweep.`); return; }
  const name = `${found.sweep.run}/${found.sweep.name}`;
  others.set(name, found);
  choose({ sweeps: [...new Set([...view.sweeps, name])] });
  updateOthers();
}

async function toggleSweep(name, isChosen) {
  choose({ sweeps: isChosen ? [...view.sweeps, name] : view.sweeps.filter((each) => each !== name) });
  try { await loadOthers(); } catch { unreadable = true; }
  updateOthers();
}

function updateOthers() {
  const names = [...new Set([...(served ?? []), ...others.keys()])];
  const focused = document.activeElement?.dataset?.sweep;
  byId("sweep-choices").replaceChildren(...names.map((name) => {
    const box = make("input", { type: "checkbox", "data-sweep": name, onchange: (event) => toggleSweep(name, event.target.checked) });
    box.checked = view.sweeps.includes(name);
    return make("label", {}, box, name);
  }));
  if (focused) [...byId("sweep-choices").querySelectorAll("input")].find((box) => box.dataset.sweep === focused)?.focus();
  const compared = [[results.sweep.name, results], ...otherResults()];
  const alone = compared.length < 2;
  byId("sweeps-compared").hidden = alone;
  const incomparable = otherResults().filter(([, each]) => !isComparable(each)).map(([name]) => name);
  const missing = view.sweeps.filter((name) => !others.has(name));
  setText(byId("sweeps-note"), [
    incomparable.length ? `Not in the charts, because they optimise another metric: ${incomparable.join(", ")}.` : "",
    missing.length ? `Not loaded: ${missing.join(", ")}.` : "",
  ].join(" ").trim());
  if (alone) return;
  updateSweepTable(compared);
  const drawn = compared.filter(([, each]) => isComparable(each)).slice(0, SELECTED_COLOURS.length);
  const layout = layoutOf(340, { showlegend: true, legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top" }, xaxis: { title: axisTitle("trials with a result") }, yaxis: { title: axisTitle(metricTitle(results.sweep.metric)) } });
  const style = (k) => ({ color: SELECTED_COLOURS[k], dash: DASHES[k], width: 2 });
  const best = drawn.map(([name, each], k) => {
    const { y } = bestSoFar(each, historyOf(each, "number").points);
    return scatter("lines", y.map((_, j) => j + 1), y, { customdata: y.map((value) => escapeForPlotly(`${name}: ${formatMetric(value, results.sweep.metric)}`)), name: escapeForPlotly(name), line: { ...style(k), shape: "hv" } });
  });
  showChart(byId("chart-sweeps-history"), { data: best, layout }, "");
  const distributions = drawn.map(([name, each], k) => [name, ranked(each).filter((trial) => trial.state !== "failed"), k]).filter(([, trials]) => trials.length);
  showChart(byId("chart-sweeps-distribution"), { data: distributions.map(([name, trials, k]) => distributionTrace(trials, name, { line: style(k) })), layout: distributionLayout(results.sweep, 340) }, "");
}

/** Show a column per sweep: what it searched, how far it is, its best trials and what it used. */
function updateSweepTable(compared) {
  const best = ([, each]) => ranked(each)[0];
  const topMean = ([, each]) => meanAndSd(ranked(each).slice(0, 5).map((trial) => trial.best));
  const line = (name, valueOf) => make("tr", {}, make("th", { scope: "row" }, name), ...compared.map((each) => make("td", {}, valueOf(each))));
  const table = byId("sweeps-table");
  const swatch = (k) => make("i", { class: "swatch", style: `background: var(${SELECTED_COLOURS[k] ?? "--line"})` });
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "text" }, ""), ...compared.map(([name], k) => make("th", { scope: "col" }, swatch(k), name))));
  const hours = (value) => (Number.isFinite(value) ? formatHours(value) : "–");
  table.tBodies[0].replaceChildren(
    line("State", ([, each]) => String(each.state)),
    line("Search", ([, { sweep }]) => `${sweep.search}, ${sweep.scheduler}`),
    line("Dimensions", ([, { sweep }]) => Object.keys(sweep.space ?? {}).map(shortName).join(", ")),
    line("Metric", ([, { sweep }]) => `${metricName(sweep.metric)} (${sweep.mode})`),
    line("Trials", ([, { counts }]) => `${formatSetting(counts.finished)} finished, ${formatSetting(counts.stopped)} stopped, ${formatSetting(counts.failed)} failed of ${formatSetting(counts.planned)}`),
    line("Best", (each) => (best(each) ? `${formatMetric(best(each).best, each[1].sweep.metric)} (trial ${best(each).number})` : "–")),
    line("Best five, mean ± sd", (each) => formatMeanSd(topMean(each), each[1].sweep.metric)),
    line("Time spent", ([, each]) => formatDuration(each.spent_seconds)),
    line("CPU time", ([, each]) => hours(each.cpu_hours)),
    line("GPU time", ([, each]) => hours(each.gpu_hours)),
  );
}
