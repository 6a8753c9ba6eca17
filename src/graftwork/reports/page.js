(() => {
  const data = JSON.parse(document.getElementById("profile-data").textContent);
  const svg = document.querySelector("#profile svg");
  const readout = document.getElementById("readout");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("style", "stroke: var(--c1c232b); stroke-width: 0.8; pointer-events: none");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const within = (runs, position) => runs.some(([start, stop]) => start <= position && position < stop);
  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const place = (x - data.left) / (width - data.left - data.right);
    if (place < 0 || place > 1) return;
    let piece = 1;
    while (piece < data.places.length - 1 && place > data.places[piece]) piece += 1;
    const [p0, p1] = [data.places[piece - 1], data.places[piece]];
    const [n0, n1] = [data.positions[piece - 1], data.positions[piece]];
    const share = p1 > p0 ? (place - p0) / (p1 - p0) : 0;
    const position = Math.min(data.labels.length - 1, Math.floor(n0 + share * (n1 - n0)));
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
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
})();
