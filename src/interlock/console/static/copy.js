// Copies the text of an element whose id a button names, and says so where it was pressed.
(() => {
  const words = new WeakMap();
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy).textContent.trim();
    if (!words.has(button)) words.set(button, button.textContent);
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // No clipboard on a plain-http address: the text is selected instead.
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Press Ctrl C";
    }
    setTimeout(() => { button.textContent = words.get(button); }, 1500);
  });
})();
