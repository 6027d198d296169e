// Calls to the v1 API, and requests that must count once.

import { activityId, lasting, player } from './player.js'

const PASSING = ['0004', '0005', '0006']  // refused for now, not for good

/** A call that did not work.
 *  `code`: the envelope's code, or offline, late. `outcome`: what this attempt did, `none` or `unknown`.
 *  `final`: asking again would get the same answer. `wait`: seconds, if the server named some. */
export class Refused extends Error {
  constructor(code, { outcome = 'unknown', final = false, status = 0, wait = 0 } = {}) {
    super(code)
    Object.assign(this, { code, outcome, final, status, wait })
  }
}

/** The `data` of a call. `query` goes into the address, `body` as JSON. */
export async function call(path, { query = {}, body, seconds = 10 } = {}) {
  const url = new URL(`../api/v1/raffle/${path}`, location.href)
  url.search = new URLSearchParams(query)
  const headers = {}
  if (body) headers['content-type'] = 'application/json'
  if (player.token) headers.authorization = `Bearer ${player.token}`
  let answer, envelope
  try {
    const signal = AbortSignal.timeout(seconds * 1000)
    answer = await fetch(url, {
      method: 'POST', headers, body: body && JSON.stringify(body), signal, cache: 'no-store', credentials: 'omit',
    })
    envelope = await answer.json().catch(error => { if (error.name === 'SyntaxError') return {}; throw error })
  } catch (error) {
    throw new Refused(error.name === 'TimeoutError' ? 'late' : 'offline')
  }
  if (answer.status === 200 && envelope.code === '0000') return envelope.data
  throw refusal(answer, typeof envelope?.code === 'string' ? envelope.code : null)
}

function refusal({ status, headers }, code) {
  const wait = Math.min(60, Number(headers.get('retry-after')) || 0)
  const sure = code && status < 500 && status !== 408
  const outcome = headers.get('bigmarket-outcome') ?? (sure ? 'none' : 'unknown')
  const final = Boolean(sure) && ![401, 429].includes(status) && !PASSING.includes(code) && outcome === 'none'
  return new Refused(code ?? '0001', { outcome, final, status, wait })
}

export const user = more => ({ userId: player.userId, activityId, ...more })

const slot = kind => `bigmarket.${kind}.${activityId}.${player.userId}`

/** The request of that kind whose outcome is not known here yet, or null: `{requestId, ...}`. */
export function pending(kind) {
  try { return JSON.parse(lasting.get(slot(kind))) } catch { return null }
}

/** Send a request that must count once, or the pending one of that kind in its place.
 *
 *  Its id is stored before it is sent and forgotten only when it is known what became of it: the page may be closed
 *  and the connection may break at any moment, and then the very same id is asked again.
 *  Returns `{data, wish, resumed}`; a Refused carries `settled` (nothing is left to find out). */
export async function once(kind, detail, send) {
  const before = pending(kind)
  const wish = before ?? { requestId: newId(), ...detail }
  lasting.set(slot(kind), JSON.stringify(wish))
  try {
    const data = await send(wish)
    forget(kind, wish)
    return { data, wish, resumed: before !== null }
  } catch (error) {
    error.settled = error.final || (error.outcome === 'none' && before === null)
    if (error.settled) forget(kind, wish)
    throw error
  }
}

function forget(kind, { requestId }) {
  if (pending(kind)?.requestId === requestId) lasting.drop(slot(kind))
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return `play-${Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('')}`
}
