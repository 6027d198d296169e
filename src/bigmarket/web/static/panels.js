// What is shown beside the wheel. Each panel asks for its own data and shows a note in its place when that fails.

import { Refused, call, user } from './api.js'
import { activityId, page, player } from './player.js'
import { padlock, svg } from './wheel.js'
import { day, has, list, monthName, t, weekdays } from './words.js'

/** An element: properties, or attributes for names with a dash and for `role`; children may be null. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') element.setAttribute(name, value)
    else element[name] = value
  }
  element.append(...children.flat().filter(child => child !== null))
  return element
}

export const byId = id => document.getElementById(id)

const known = {}           // the latest data of each panel, to show it again in another language
const turn = {}            // how often each panel was asked for: only the latest answer counts
let act = {}               // what buttons do: {signIn, buy, claim}
const extra = { awards: [], cursor: null, open: null }

export const useActions = actions => { act = actions }

const panels = {
  signIn: {
    ask: () => call('activity/query_sign_in_calendar', { body: user() }),
    show: calendar,
    empty: () => !page.signs,
  },
  tiers: {
    ask: () => call('strategy/query_raffle_strategy_rule_weight', { body: user() }),
    show: tiers,
    empty: data => data.length === 0,
  },
  shop: {
    ask: async () => {
      const [skus, credits] = await Promise.all([
        call('activity/query_sku_product_list_by_activity_id', { query: { activityId } }),
        call('activity/query_user_credit_account', { query: { userId: player.userId } }),
      ])
      return { skus: skus.filter(sku => sku.productAmount > 0), credits }
    },
    show: shop,
  },
  prizes: {
    ask: () => call('strategy/query_raffle_award_list', { body: user() }),
    show: prizes,
  },
  awards: {
    ask: async () => {
      const { items, nextCursor } = await call('activity/query_user_award_record', { body: user({ limit: 10 }) })
      Object.assign(extra, { awards: [], cursor: nextCursor })
      return items
    },
    show: awards,
  },
}

export const names = Object.keys(panels)

/** The empty panels, in two columns where there is room. */
export function build() {
  const sections = names.map(name => el('section', { id: name, className: 'card', 'aria-labelledby': `${name}-title` },
    el('h2', { id: `${name}-title` }), el('div', { className: 'body' })))
  for (const heading of sections.map(section => section.firstChild)) heading.dataset.t = heading.id.slice(0, -6)
  byId('panels').append(el('div', {}, sections.slice(0, 3)), el('div', {}, sections.slice(3)))
}

/** Ask for a panel's data and show it; returns the data, or null when the call failed. Throws only a 401. */
export async function load(name) {
  const mine = turn[name] = (turn[name] ?? 0) + 1
  try {
    const data = await panels[name].ask()
    if (turn[name] === mine) {
      known[name] = data
      if (name !== 'awards' || !byId('claim')) show(name)  // what is being typed stays
    }
    return data
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    if (turn[name] === mine && known[name] === undefined) failed(name)
    if (error.status === 401) throw error
    return null
  }
}

/** Show what is known, in the present language. */
export function show(name) {
  const data = known[name]
  if (data === undefined) { if (byId(name).classList.contains('failed')) failed(name); return }
  const section = byId(name)
  section.classList.remove('failed')
  section.hidden = panels[name].empty?.(data) ?? false
  const focused = document.activeElement.id
  section.querySelector('.body').replaceChildren(...panels[name].show(data).filter(Boolean))
  if (focused && document.activeElement.id !== focused) byId(focused)?.focus()
}

function failed(name) {
  const section = byId(name)
  section.classList.add('failed')
  section.querySelector('.body').replaceChildren(
    el('p', { className: 'quiet' }, t('panelFailed')),
    el('button', { type: 'button', className: 'plain', onclick: () => load(name).catch(act.broken) }, t('retry')),
  )
}

const button = (id, text, onclick, more = {}) => el('button', { id, type: 'button', onclick, ...more }, text)

/** How far it is; the words beside it say the same. */
const bar = (part, whole) => el('progress', { max: whole, value: Math.min(part, whole), 'aria-hidden': 'true' })

function calendar({ month, days, streak, today, signedToday }) {
  const [year, number] = month.split('-').map(Number)
  const signed = new Set(days)
  const lead = (new Date(Date.UTC(year, number - 1, 1)).getUTCDay() + 6) % 7
  const last = new Date(Date.UTC(year, number, 0)).getUTCDate()
  const cells = Array.from({ length: last }, (_, i) => {
    const date = i + 1
    const now = today === `${month}-${String(date).padStart(2, '0')}`
    const marks = [signed.has(date) ? t('dayDone') : null, now ? t('dayToday') : null].filter(Boolean)
    return el('li', { className: `${signed.has(date) ? 'done' : ''} ${now ? 'today' : ''}` },
      String(date), marks.length ? el('span', { className: 'hear' }, ` ${marks.join(', ')}`) : null)
  })
  const before = Array.from({ length: lead }, () => el('li', { 'aria-hidden': 'true' }))
  return [
    el('div', { className: 'row' },
      el('p', {}, monthName(year, number), streak > 0 ? el('span', { className: 'chip good' }, t('streak', streak)) : null),
      button('sign-in', signedToday ? t('signed') : t('signNow'), () => act.signIn(), {
        className: signedToday ? 'main done' : 'main', disabled: signedToday,
      })),
    el('ol', { className: 'month head', 'aria-hidden': 'true' }, weekdays().map(name => el('li', {}, name))),
    el('ol', { className: 'month', role: 'list', 'aria-label': t('signIn') }, before, cells),
  ]
}

function tiers(data) {
  return [el('ul', { role: 'list', className: 'lines' }, data.map(tier => {
    const { ruleWeightCount: at, userActivityAccountTotalUseCount: used, strategyAwards } = tier
    const left = at - used
    const state = left <= 0 ? t('tierDone') : left === 1 ? t('tierNext') : t('tierLeft', left)
    return el('li', { className: left <= 0 ? 'past' : '' },
      el('div', { className: 'row' }, el('strong', {}, t('tier', at)), el('span', { className: left === 1 ? 'chip good' : 'chip' }, state)),
      bar(used, at),
      el('p', { className: 'quiet' }, t('tierPrizes', list(strategyAwards.map(award => award.awardTitle), 'disjunction'))))
  }))]
}

/** The draws that a sku gives. */
export const drawsOf = sku => sku.activityCount.totalCount

function shop({ skus, credits }) {
  const offers = skus.map(sku => {
    const price = sku.productAmount, left = sku.stockCountSurplus, short = price - credits
    const { totalCount, dayCount, monthCount } = sku.activityCount
    const limited = Math.min(dayCount, monthCount) < totalCount
    const notes = [left <= 0 ? t('soldOut') : t('stock', left), left > 0 && short > 0 ? t('short', Math.round(short * 100) / 100) : null]
    return el('li', {},
      el('div', {},
        el('strong', {}, t('give', drawsOf(sku))),
        limited ? el('p', { className: 'quiet' }, t('giveLimits', dayCount, monthCount)) : null,
        el('p', { className: 'quiet' }, notes.filter(Boolean).join(' · '))),
      button(`buy-${sku.sku}`, t('price', price), () => act.buy(sku), {
        className: 'main', disabled: left <= 0 || short > 0, 'aria-label': t('buy', t('give', drawsOf(sku)), t('price', price)),
      }))
  })
  return [
    el('p', { className: 'balance', id: 'balance' }, t('balance', credits)),
    el('ul', { role: 'list', className: 'offers' }, offers),
  ]
}

function prizes(data) {
  return [el('ul', { role: 'list', className: 'prizes' }, data.map((prize, i) => {
    const { awardTitle, awardSubtitle, isAwardUnlock, waitUnLockCount: wait, awardRuleLockCount: at } = prize
    return el('li', {},
      el('span', { className: 'place', 'aria-hidden': 'true' },
        isAwardUnlock ? String(i + 1) : svg('svg', { viewBox: '0 0 16 18' }, padlock())),
      el('div', {},
        el('strong', {}, awardTitle),
        awardSubtitle && isAwardUnlock ? el('p', { className: 'quiet' }, awardSubtitle) : null,
        isAwardUnlock ? null : el('p', { className: 'lack' }, t('locked', wait)),
        isAwardUnlock ? null : bar(at - wait, at)))
  }))]
}

function awards(items) {
  const all = [...items, ...extra.awards]
  if (all.length === 0) return [el('p', { className: 'quiet' }, t('none'))]
  return [
    el('ul', { role: 'list', className: 'lines' }, all.map(award)),
    extra.cursor ? button('older', t('older'), older, { className: 'plain' }) : null,
  ]
}

async function older() {
  try {
    const body = user({ limit: 10, cursor: extra.cursor })
    const { items, nextCursor } = await call('activity/query_user_award_record', { body })
    extra.awards.push(...items)
    extra.cursor = nextCursor
    show('awards')
  } catch (error) { act.broken(error) }
}

function award(item) {
  const { orderId, awardTitle, awardTime, awardState, delivery } = item
  const state = delivery?.state ?? { create: 'waiting', fail: 'failed' }[awardState] ?? awardState
  const good = ['completed', 'delivered', 'shipped'].includes(state)
  const name = has(`state.${state}`) ? t(`state.${state}`) : state
  const made = el('li', {},
    el('div', { className: 'row' },
      el('div', {}, el('strong', {}, awardTitle), el('p', { className: 'quiet' }, day(awardTime, page.zone))),
      item.awardKey === 'nothing' ? null : el('span', { className: `chip ${good ? 'good' : state === 'unclaimed' ? 'due' : ''}` }, name)),
    delivery?.code ? el('p', {}, `${t('code')}: `, el('code', {}, delivery.code)) : null,
    delivery?.tracking
      ? el('p', {}, `${t('tracking')}: ${[delivery.carrier, delivery.tracking].filter(Boolean).join(' ')}`) : null,
    state === 'unclaimed' ? claim(orderId, awardTitle, delivery.claimBefore) : null)
  made.dataset.order = orderId
  return made
}

function claim(orderId, title, before) {
  if (extra.open !== orderId) {
    const open = button(`claim-${orderId}`, t('claim'), () => {
      extra.open = orderId
      show('awards')
      byId('claim-name').focus()
    }, { className: 'main', 'aria-label': `${t('claim')}: ${title}` })
    return el('p', { className: 'due-by' }, open,
      before ? el('span', { className: 'quiet' }, t('claimBefore', day(before, page.zone))) : null)
  }
  const field = (name, input) => el('div', {}, el('label', { htmlFor: input.id }, t(name)), input)
  const form = el('form', { id: 'claim', className: 'claim' },
    field('person', el('input', { id: 'claim-name', name: 'name', required: true, maxLength: 64, autocomplete: 'name' })),
    field('phone', el('input', { id: 'claim-phone', name: 'phone', type: 'tel', required: true, maxLength: 32, autocomplete: 'tel',
      pattern: '\\+?[0-9 \\(\\).\\/\\-]{5,}' })),
    field('address', el('textarea', {
      id: 'claim-address', name: 'address', required: true, maxLength: 300, rows: 3, autocomplete: 'street-address',
    })),
    el('p', { className: 'quiet' }, t('claimNote')),
    el('button', { className: 'main' }, t('send')))
  form.onsubmit = async event => {
    event.preventDefault()
    const contact = Object.fromEntries(new FormData(form))
    contact.address = contact.address.trim().replace(/\s*\n\s*/g, ', ')
    const sent = await act.claim(orderId, contact)
    if (!sent) return
    extra.open = null
    form.remove()
    load('awards').catch(act.broken)
  }
  return form
}

/** Titles that are unlocked in `after` and were not in `before`. */
export function unlocked(before, after) {
  const shut = new Set(before.filter(prize => !prize.isAwardUnlock).map(prize => prize.awardId))
  return after.filter(prize => prize.isAwardUnlock && shut.has(prize.awardId)).map(prize => prize.awardTitle)
}
