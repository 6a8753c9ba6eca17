// Parts of the page are fetched when they come into view, and again when an event says that their run has changed.
const parts = [...document.querySelectorAll("[data-part]")];
const line = document.querySelector(".line");
const inView = new Set();
const stale = new Set(parts.filter((part) => !("here" in part.dataset)));
const busy = new Set();

// What a reader has opened, scrolled, chosen or put the focus on stays as it was.
const kept = (part) => {
  const all = (selector) => [...part.querySelectorAll(selector)];
  const focusable = () => all("a, button, input, summary, [tabindex]");
  const focus = focusable().indexOf(document.activeElement);
  const open = all("details").map((one) => one.open);
  const across = [part, ...all(".scroll")].map((one) => one.scrollLeft);
  const chosen = all("input:checked").map((one) => one.value);
  return () => {
    all("details").forEach((one, at) => { if (open[at]) one.open = true; });
    [part, ...all(".scroll")].forEach((one, at) => { one.scrollLeft = across[at] ?? 0; });
    all("input").forEach((one) => { one.checked = chosen.includes(one.value); });
    if (focus >= 0) focusable()[focus]?.focus({ preventScroll: true });
  };
};

const load = async (part) => {
  if (busy.has(part) || !stale.has(part)) return;
  busy.add(part);
  stale.delete(part);
  try {
    const answer = await fetch(part.dataset.part);
    if (!answer.ok) throw new Error(answer.statusText);
    const html = await answer.text();
    const restore = kept(part);
    part.innerHTML = html;
    restore();
    for (const section of part.querySelectorAll("section")) readouts[section.id]?.(section);
  } catch (error) {
    stale.add(part);  // the next event, or coming into view again, tries once more
  } finally {
    busy.delete(part);
  }
  document.dispatchEvent(new CustomEvent("part", { detail: part.dataset.part }));
  if (stale.has(part) && inView.has(part) && source?.readyState === EventSource.OPEN) setTimeout(load, 50, part);
};

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) inView.add(target); else inView.delete(target);
    if (isIntersecting) load(target);
  }
}, { rootMargin: "400px" });
parts.forEach((part) => watcher.observe(part));

const page = document.querySelector("[data-events]");
const known = new Map();
let source = null;

const renew = (all) => {
  for (const part of parts) if (all || "live" in part.dataset) stale.add(part);
  for (const part of inView) load(part);
};

const hear = (event) => {
  const run = JSON.parse(event.data);
  const before = known.get(run.id) ?? { revision: Number(page.dataset.revision), state: page.dataset.state };
  known.set(run.id, run);
  if (before.revision === run.revision) return;
  renew(before.state !== run.state);
  const found = run.generation === null ? run.state : `${run.state}, generation ${run.generation}, best ${run.best}`;
  if ("revision" in page.dataset) line.textContent = found;
};

const listen = () => {
  if (!page || source) return;
  source = new EventSource(page.dataset.events);
  source.addEventListener("open", () => { line.textContent = ""; line.classList.remove("lost"); });
  source.addEventListener("run", hear);
  source.addEventListener("error", () => {
    line.textContent = "The connection is lost: the page shows what was known. It tries again by itself; after a new "
      + "start of graftwork serve, open the address that it prints.";
    line.classList.add("lost");
  });
};

// Browsers open few connections to one server: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return listen();
  source?.close();
  source = null;
});
listen();
