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
for (const button of document.querySelectorAll("figure button")) {
  button.addEventListener("click", () => {
    const small = button.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.querySelector("p").textContent =
      button.parentElement.querySelector("figcaption").textContent;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
// A printed page has no closed parts.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
