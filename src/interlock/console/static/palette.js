// The palette (Ctrl K) lists the screens of this console; "/" goes to the box that opens any id.
(() => {
  const dialog = document.getElementById("palette");
  const input = document.getElementById("palette-input");
  const list = document.getElementById("palette-list");
  let screens = [];
  let chosen = 0;

  const load = async () => {
    if (screens.length) return;
    const answer = await fetch("/console/screens.json");
    if (answer.ok) screens = (await answer.json()).data.filter((screen) => !screen.path.includes("{"));
  };
  const matches = () => {
    const text = input.value.trim();
    const found = screens.filter((screen) => screen.title.toLowerCase().includes(text.toLowerCase()));
    return found.length || !text ? found : [{ title: `Open ${text}`, path: `/console/find?id=${encodeURIComponent(text)}` }];
  };
  const show = () => {
    const found = matches();
    chosen = Math.min(chosen, Math.max(found.length - 1, 0));
    list.replaceChildren(...found.map((screen, place) => {
      const item = document.createElement("li");
      item.id = `palette-${place}`;
      item.role = "option";
      item.setAttribute("aria-selected", String(place === chosen));
      item.textContent = screen.title;
      item.addEventListener("click", () => location.assign(screen.path));
      return item;
    }));
    input.setAttribute("aria-activedescendant", found.length ? `palette-${chosen}` : "");
  };
  const open = async () => {
    await load();
    input.value = "";
    chosen = 0;
    show();
    dialog.showModal();
    input.focus();
  };
  const go = () => {
    const found = matches();
    if (found.length) location.assign(found[chosen].path);
  };

  input.addEventListener("input", () => { chosen = 0; show(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      chosen = Math.max(0, Math.min(matches().length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
      show();
    } else if (event.key === "Enter") {
      event.preventDefault();
      go();
    }
  });
  document.getElementById("palette-open").addEventListener("click", open);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
    } else if (event.key === "/" && !event.target.closest("input, textarea, select")) {
      event.preventDefault();
      document.getElementById("find-id").focus();
    }
  });
})();
