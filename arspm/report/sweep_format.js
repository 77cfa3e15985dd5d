// Text for the sweep's page: names of states and metrics, numbers, and durations. Plotly interprets some HTML in labels, so
// all text that goes into a chart passes through `escapeForPlotly`.

const STATES = ["running", "waiting", "finished", "stopped", "failed", "interrupted"];
const STATE_WORDS = { running: "running", waiting: "waiting", finished: "finished", stopped: "stopped early", failed: "failed", interrupted: "interrupted" };
const METRICS = { val_cos_degrees: "validation angle" }; // other metrics are shown by their own names

const escapeForPlotly = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const isDegrees = (metric) => metric.endsWith("degrees");
const metricName = (metric) => METRICS[metric] ?? metric.replaceAll("_", " ");

/** Return a metric's value: degrees with two decimals, others with four significant digits. */
function formatMetric(value, metric) {
  if (typeof value !== "number") return "–";
  return isDegrees(metric) ? `${value.toFixed(2)}°` : formatNumber(value);
}

const FOUR_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 }); // created once, because creation is slow
const INTEGER = new Intl.NumberFormat("en");

/** Return a number with four significant digits, thousands separators and a proper minus sign. */
function formatNumber(value) {
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e9)) return value.toExponential(2);
  return (Math.abs(value) < 1e4 ? FOUR_DIGITS : INTEGER).format(value).replace("-", "−");
}

/** Return a setting's value as text. */
function formatSetting(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" ? formatNumber(value) : String(value);
}

/** Return the last parts of a dimension's field names: "lambda1", "kind + fusion". */
const shortName = (dimension) => dimension.split("+").map((field) => field.split(".").pop()).join(" + ");

function shortNames(dimensions) {
  const short = dimensions.map(shortName);
  return Object.fromEntries(dimensions.map((name, k) => [name, short.filter((each) => each === short[k]).length > 1 ? name : short[k]]));
}

function meanAndSd(values) {
  if (!values.length) return { mean: null, sd: null, n: 0 };
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null, n: values.length };
}

/** Return mean and standard deviation as text: "30.12 ± 0.42°". */
function formatMeanSd({ mean, sd }, metric) {
  if (sd === null || mean === null) return formatMetric(mean, metric);
  return isDegrees(metric) ? `${mean.toFixed(2)} ± ${sd.toFixed(2)}°` : `${formatNumber(mean)} ± ${Number(sd.toPrecision(2))}`;
}

const formatCount = (value) => INTEGER.format(value);
const capitalise = (text) => text[0].toUpperCase() + text.slice(1);
const formatHours = (value) => `${value.toFixed(value < 10 ? 2 : 1)} h`;

/** Return a duration in readable units: 0.3 s, 1 min 31 s, 2 h 05 min, 3 days. */
function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const two = (value) => String(value).padStart(2, "0");
  const rounded = Math.round(seconds), minutes = Math.round(seconds / 60);
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${two(rounded % 60)} s`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min` : `${Math.round(minutes / 1440)} days`;
}
