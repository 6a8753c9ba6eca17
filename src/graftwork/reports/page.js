// What a section says at the pointer, or by the arrow keys; by the section's id.
const readouts = {};

readouts.right = (section) => {
  const holder = section.querySelector("#profile-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const svg = section.querySelector("#profile svg");
  const readout = section.querySelector("#profile .readout");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("style", "stroke: var(--c1c232b); stroke-width: 0.8; pointer-events: none");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const within = (runs, position) => runs.some(([start, stop]) => start <= position && position < stop);
  const last = data.labels.length - 1;
  let shown = 0;
  const between = (value, from, to) => {
    let piece = 1;
    while (piece < from.length - 1 && value > from[piece]) piece += 1;
    const [f0, f1, t0, t1] = [from[piece - 1], from[piece], to[piece - 1], to[piece]];
    return t0 + (f1 > f0 ? (value - f0) / (f1 - f0) : 0) * (t1 - t0);
  };
  const show = (position) => {
    shown = position;
    const x = data.left + between(position + 0.5, data.positions, data.places) * (width - data.left - data.right);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    line.setAttribute("y1", data.top); line.setAttribute("y2", height - 8);
    svg.appendChild(line);
    const right = data.rows.filter((row) => row.member && within(row.runs, position)).map((row) => row.name);
    const members = data.rows.filter((row) => row.member).length;
    const who = right.length === members ? "every member is right" : right.length === 0 ? "no member is right"
      : right.length === 1 ? `only ${right[0]} is right` : `right: ${right.join(", ")}`;
    const text = document.createElement("span");
    text.textContent = `Example ${data.index[position]} (${data.classes[data.labels[position]]}): ${who}.`;
    readout.replaceChildren();
    const slot = data.thumbs[position];
    if (slot !== undefined) {
      const thumb = document.createElement("span");
      thumb.className = "thumb loner";
      thumb.style.backgroundPosition = `${slot}% 0`;
      readout.appendChild(thumb);
    }
    readout.appendChild(text);
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const place = (x - data.left) / (width - data.left - data.right);
    if (place < 0 || place > 1) return;
    show(Math.min(last, Math.floor(between(place, data.places, data.positions))));
  };
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "application");
  svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}; arrow keys go from example to example`);
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -last, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(Math.max(0, Math.min(last, shown + moves[event.key])));
  });
};

readouts.errors = (section) => {
  const svg = section.querySelector("#matrix svg");
  if (!svg) return;
  const readout = section.querySelector("#matrix .readout");
  const cells = [...svg.querySelectorAll(".cell")];
  const place = (cell) => [Number(cell.dataset.row), Number(cell.dataset.column)];
  let shown = null;
  const show = (cell) => {
    if (shown) shown.classList.remove("shown");
    shown = cell;
    cell.classList.add("shown");
    readout.textContent = cell.querySelector("title").textContent;
  };
  const next = (down, right) => {
    if (!shown) return cells[0];
    const [row, column] = place(shown);
    const ahead = cells.filter((cell) => {
      const [r, c] = place(cell);
      return right ? r === row && (c - column) * right > 0 : c === column && (r - row) * down > 0;
    });
    const far = (cell) => Math.abs(place(cell)[0] - row) + Math.abs(place(cell)[1] - column);
    return ahead.sort((one, other) => far(one) - far(other))[0];
  };
  svg.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) show(cell);
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (!(event.key in moves) || !cells.length) return;
    event.preventDefault();
    const cell = next(...moves[event.key]);
    if (cell) show(cell);
  });
};

for (const [id, begin] of Object.entries(readouts)) {
  const section = document.getElementById(id);
  if (section) begin(section);
}
