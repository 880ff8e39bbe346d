const root = document.documentElement;
const themeButton = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
const nameTheme = () => {
  themeButton.textContent = isDark() ? "Light colours" : "Dark colours";
};
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
nameTheme();

const dialog = document.getElementById("large");
const figures = [...document.querySelectorAll("figure button")];
let shown = 0;
const show = (number) => {
  shown = (number + figures.length) % figures.length;
  const small = figures[shown].querySelector("img");
  const large = dialog.querySelector("img");
  large.src = small.src;
  large.alt = small.alt;
  dialog.querySelector("p").textContent =
    figures[shown].parentElement.querySelector("figcaption").textContent;
};
figures.forEach((button, number) => {
  button.addEventListener("click", () => {
    show(number);
    dialog.showModal();
  });
});
for (const button of dialog.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => show(shown + Number(button.dataset.step)));
}
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) show(shown + step);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
// Only a table that scrolls is a stop for the keyboard.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const part of document.querySelectorAll(".scroll")) sizes.observe(part);
// A printed page has no closed parts.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
