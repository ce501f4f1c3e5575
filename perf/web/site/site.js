
// How long ago a time was, at the moment of reading: a site that is no longer published gets old too.
const STALE = 36 * 3600;

function ago(seconds) {
  const units = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["minute", 60];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.round(seconds / size), unit);
}

all("time[data-t]").forEach((time) => {
  const passed = Math.max(0, Date.now() / 1000 - Number(time.dataset.t));
  const tile = time.closest(".tile");
  time.title = new Date(1000 * Number(time.dataset.t)).toISOString().slice(0, 16).replace("T", " ") + " UTC";
  if (tile) {
    time.textContent = ago(passed);
    tile.classList.toggle("stale", passed > STALE);
  } else {
    time.append(element("span", ` (${ago(passed)})`, "ago"));
  }
});
