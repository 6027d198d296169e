// The wheel: sectors as SVG, and how it turns. It knows nothing of draws; it is told where to stop.

const SVG = 'http://www.w3.org/2000/svg'
const RADIUS = 176, HUB = 62
const SPEED = 0.5          // degrees per millisecond while the answer is awaited
const RAMP_MS = 350        // to get there
const TURNS = 2            // at least, from the answer to the stop

const still = matchMedia('(prefers-reduced-motion: reduce)')

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.append(...children)
  return element
}

const point = (degrees, radius) => {
  const a = (degrees - 90) * Math.PI / 180
  return `${(Math.cos(a) * radius).toFixed(2)} ${(Math.sin(a) * radius).toFixed(2)}`
}

export class Wheel {
  #disc = svg('g', { class: 'disc' })
  #sectors = []
  #angle = 0
  #frame = 0
  #won = -1
  #skipped = false
  #stop = null             // while it slows down: go to the end at once

  constructor(root) {
    this.root = root
    root.append(
      svg('circle', { r: 197, class: 'rim' }),
      this.#disc,
      svg('circle', { r: RADIUS + 1, class: 'edge' }),
      svg('circle', { r: HUB, class: 'hub' }),
    )
    const lights = svg('g', { class: 'lights' })
    for (let i = 0; i < 24; i++) {
      const [x, y] = point(i * 15 + 7.5, 187).split(' ')
      lights.append(svg('circle', { cx: x, cy: y, r: 3.2, class: i % 2 ? 'odd' : 'even' }))
    }
    root.insertBefore(lights, this.#disc)
  }

  /** Draw these `{title, locked}`, clockwise from the top. */
  show(sectors) {
    const step = 360 / sectors.length
    this.#sectors = sectors.map((sector, i) => this.#sector(sector, i, step, sectors.length))
    this.#disc.replaceChildren(...this.#sectors)
    this.#mark(this.#won)
  }

  #sector({ title, locked }, i, step, count) {
    const group = svg('g', { class: `sector c${colour(i, count)}${locked ? ' locked' : ''}` })
    const path = count === 1
      ? `M0 ${-RADIUS}A${RADIUS} ${RADIUS} 0 1 1 -0.01 ${-RADIUS}Z`
      : `M0 0L${point(i * step, RADIUS)}A${RADIUS} ${RADIUS} 0 ${step > 180 ? 1 : 0} 1 ${point((i + 1) * step, RADIUS)}Z`
    group.append(svg('path', { d: path }), label(title, (i + 0.5) * step, count, locked))
    if (locked) {
      const lock = padlock()
      lock.setAttribute('transform', `rotate(${(i + 0.5) * step}) translate(-8 ${count > 8 ? -84 : -98})`)
      group.append(lock)
    }
    return group
  }

  #turn(angle) {
    this.#angle = angle
    this.#disc.style.transform = `rotate(${angle}deg)`
  }

  /** Turn until `land` or `rest` is called. */
  start() {
    this.#skipped = false
    this.#mark(-1)
    this.root.classList.add('turning')
    if (still.matches) return
    const from = this.#angle % 360, began = performance.now()
    this.#each(now => {
      const ms = now - began, ramp = Math.min(ms, RAMP_MS)
      this.#turn(from + SPEED * (ramp * ramp / (2 * RAMP_MS) + Math.max(0, ms - RAMP_MS)))
      return true
    })
  }

  /** Slow down and stop on that sector (from 0). Resolves when the wheel stands. */
  land(index) {
    const step = 360 / this.#sectors.length
    const off = (Math.random() - 0.5) * 0.56 * step  // not always dead centre, never near an edge
    const from = this.#angle
    const rest = ((-(index + 0.5) * step + off - from) % 360 + 360) % 360
    const way = TURNS * 360 + rest
    const lasts = 3 * way / SPEED / 1.6              // begins at about the speed it has
    return new Promise(done => {
      const stop = () => {
        cancelAnimationFrame(this.#frame)
        this.#stop = null
        this.#turn((from + rest) % 360)
        this.root.classList.remove('turning')
        this.#mark(index)
        done()
      }
      if (still.matches || this.#skipped) return stop()
      this.#stop = stop
      const began = performance.now()
      this.#each(now => {
        const part = Math.min(1, (now - began) / lasts)
        this.#turn(from + way * (1 - (1 - part) ** 3))
        if (part === 1) stop()
        return part < 1
      })
    })
  }

  /** Stop turning where it is: there is no answer to land on. */
  rest() {
    cancelAnimationFrame(this.#frame)
    this.root.classList.remove('turning')
  }

  /** Do not let the player wait: stop at once, or as soon as it is known where. */
  skip() {
    this.#skipped = true
    this.#stop?.()
  }

  #each(frame) {
    cancelAnimationFrame(this.#frame)
    const next = now => { if (frame(now)) this.#frame = requestAnimationFrame(next) }
    this.#frame = requestAnimationFrame(next)
  }

  #mark(index) {
    this.#won = index
    this.root.classList.toggle('landed', index >= 0)
    this.#sectors.forEach((sector, i) => sector.classList.toggle('won', i === index))
  }
}

/** A closed lock, 16 by 18. */
export const padlock = () => svg('g', { class: 'lock' },
  svg('path', { d: 'M4 8V5a4 4 0 0 1 8 0v3', class: 'bow' }), svg('rect', { x: 1, y: 8, width: 14, height: 10, rx: 2 }))

/** Four colours such that neighbours differ, also where the last meets the first. */
function colour(i, count) {
  return i === count - 1 && i % 4 === 0 && count > 1 ? 2 : i % 4
}

/** Up to eight titles lie across their sector in short lines; more stand along the spoke in one or two. */
function label(title, middle, count, locked) {
  const across = count <= 8
  const room = across ? Math.min(150, 700 / count) : locked ? 80 : 96
  const wanted = across ? 20 - count / 2 : count <= 12 ? 15.5 : 14.5
  const size = Math.max(wanted * 0.85, Math.min(wanted, room / widest(title)))  // rather smaller than a broken word
  const text = svg('text', { transform: `rotate(${across ? middle : middle - 90})`, class: across ? '' : 'spoke', 'font-size': size })
  const lines = wrap(title, room / size, across ? 3 : 2)
  text.append(...lines.map((line, i) => svg('tspan', across
    ? { x: 0, y: i * size * 1.18 - 148 }
    : { x: 168, y: (i - (lines.length - 1) / 2) * size * 1.1 }, line)))
  return text
}

const pen = document.createElement('canvas').getContext('2d')

/** How many ems wide the text is. */
function width(text) {
  pen.font = `600 16px ${getComputedStyle(document.documentElement).fontFamily}`
  return pen.measureText(text).width / 16
}

/** Lines of at most `room` ems: broken between words, or between characters where there are none; cut with an ellipsis. */
function wrap(title, room, most) {
  let lines = broken(title, room)
  if (lines.length > most) return [...lines.slice(0, most - 1), cut(lines.slice(most - 1).join(' '), room)]
  const least = widest(title)
  for (let less = room; less >= least; less -= 0.25) {  // as even as they can be without another line
    const narrower = broken(title, less)
    if (narrower.length > lines.length) break
    lines = narrower
  }
  return lines
}

const widest = title => Math.max(...pieces(title).map(piece => width(piece.trim())))
const pieces = title => title.match(/[\u2e80-\uffef]|[^\s\u2e80-\uffef]+\s*|\s+/g) ?? []

function cut(text, room) {
  let kept = Array.from(text)
  while (width(`${kept.join('')}…`) > room) kept = kept.slice(0, -1)
  return `${kept.join('').trimEnd()}…`
}

function broken(title, room) {
  const lines = ['']
  for (const word of pieces(title)) {
    for (const piece of width(word.trimEnd()) > room ? Array.from(word) : [word]) {
      if (lines.at(-1) && width((lines.at(-1) + piece).trimEnd()) > room) lines.push('')
      lines[lines.length - 1] += piece
    }
  }
  return lines.map(line => line.replace(/^[\s·]+|[\s·]+$/g, '')).filter(Boolean)
}
