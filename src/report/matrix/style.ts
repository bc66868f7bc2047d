/** The page's style: letters and words carry each meaning, colour repeats it. */
export const style = `
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --card: #fff; --ink: #1c2024; --soft: #5c6670; --line: #d9dde1; --code: #f1f3f4; --link: #0b57a4;
  --good: #d5ebe6; --good-ink: #0d4a40; --red: #b3261e; --red-ink: #fff; --known: #fbe7bd; --known-ink: #5d3d00;
  --skip: #e4e7ea; --skip-ink: #3d464e; --infra: #5b3a8c; --infra-ink: #fff; --minus: #9c1c14; --plus: #0d5a3c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181b; --card: #1c2024; --ink: #e6e8ea; --soft: #a0a9b2; --line: #363d44; --code: #252a2f; --link: #8ab9ec;
    --good: #17443b; --good-ink: #c9eee5; --red: #c23a31; --red-ink: #fff; --known: #59430f; --known-ink: #fbe7bd;
    --skip: #343a40; --skip-ink: #ccd2d8; --infra: #8d6cc4; --infra-ink: #111; --minus: #f2938b; --plus: #86d6b3;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 36px 0 10px; }
a { color: var(--link); }
p { margin: 6px 0; }
.soft { color: var(--soft); }
.said, pre, code { overflow-wrap: anywhere; unicode-bidi: isolate; }
pre, code { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--code); border-radius: 4px; padding: 8px 10px; margin: 6px 0; white-space: pre-wrap; }
.outcome { font-size: 17px; font-weight: 600; margin: 12px 0 4px; }
.problems { border-left: 4px solid var(--red); background: var(--card); padding: 8px 14px 8px 30px; margin: 12px 0; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; padding: 0; margin: 8px 0 14px; list-style: none; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 7px; }
.letter {
  display: inline-block; min-width: 22px; padding: 0 5px; border-radius: 4px; text-align: center; font-weight: 700;
}
.good { background: var(--good); color: var(--good-ink); }
.red { background: var(--red); color: var(--red-ink); }
.known { background: var(--known); color: var(--known-ink); }
.skip { background: var(--skip); color: var(--skip-ink); }
.infra { background: var(--infra); color: var(--infra-ink); }
.map { border-collapse: separate; border-spacing: 4px; width: 100%; table-layout: fixed; }
.map th { text-align: left; font-weight: 600; vertical-align: bottom; padding: 4px 6px; overflow-wrap: anywhere; }
.map tbody th { vertical-align: middle; }
.map small, .cell small { display: block; font-weight: 400; font-size: 12.5px; }
.map th small { color: var(--soft); }
.map td { padding: 0; height: 58px; }
.cell { display: flex; align-items: center; gap: 10px; height: 100%; padding: 6px 10px; border-radius: 5px; text-decoration: none; }
.cell b { font-size: 19px; min-width: 18px; text-align: center; }
.cell:hover, .cell:focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
.none { display: block; text-align: center; color: var(--soft); }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: 6px 0; }
summary { cursor: pointer; padding: 7px 10px; overflow-wrap: anywhere; }
.body { padding: 2px 12px 10px; scroll-margin-top: 60px; }
.body details { background: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 6px 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.diff span { display: block; }
.minus { color: var(--minus); }
.plus { color: var(--plus); }
@media (max-width: 640px) {
  main { padding: 16px 12px 48px; }
  .map, .map tbody, .map tr, .map th, .map td { display: block; }
  .map thead { display: none; }
  .map tbody th { padding: 14px 0 2px; }
  .map td { height: auto; margin: 4px 0; }
  .map td:has(.none) { display: none; }
  .cell { padding: 7px 10px; }
  .cell::after { content: attr(data-host); margin-left: auto; text-align: right; font-size: 12.5px; overflow-wrap: anywhere; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 5px; }
}
@media print { details { break-inside: avoid; } }
`
