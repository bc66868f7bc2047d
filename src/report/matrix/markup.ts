/** HTML in which whatever is put in is text: only what was made here is markup. */
import { xmlText } from '../junit.ts'

export class Markup {
  readonly html: string

  constructor(html: string) {
    this.html = html
  }
}

export type Content = Markup | string | number | undefined | readonly Content[]

const entities: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

/** Safe between tags and in a quoted attribute, without terminal colours and control characters. */
export function escapeHtml(text: string): string {
  return xmlText(text).replace(/[&<>"']/g, (character) => entities[character]!)
}

/** A template: strings and numbers in it are escaped, undefined is nothing, lists are joined. */
export function html(strings: TemplateStringsArray, ...values: Content[]): Markup {
  return new Markup(strings.reduce((made, part, at) => made + render(values[at - 1]) + part))
}

function render(value: Content): string {
  if (value === undefined) return ''
  if (value instanceof Markup) return value.html
  if (typeof value === 'string' || typeof value === 'number') return escapeHtml(String(value))
  return value.map(render).join('')
}
