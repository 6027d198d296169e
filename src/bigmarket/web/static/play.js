// The page: who plays, the wheel, and what its buttons do.

import { Refused, call, once, pending, user } from './api.js'
import { build, byId, drawsOf, el, load, names, show, unlocked, useActions } from './panels.js'
import { activityId, forgetToken, page, player, rememberLanguage, wantedLanguage } from './player.js'
import { Wheel } from './wheel.js'
import { day, has, lang, list, speak, t } from './words.js'

const ASK_AGAIN_SECONDS = [1, 2, 4, 8, 15, 30]
const wheel = new Wheel(byId('disc'))

const now = { sectors: null, account: null, busy: false, gate: null, result: null, trouble: null, spin: 'spin' }

// What is shown

function showWords() {
  document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en'
  for (const element of document.querySelectorAll('[data-t]')) element.textContent = t(element.dataset.t)
  document.title = page.name || t('page')
  byId('name').textContent = page.name || t('page')
  byId('until').textContent = openWhen()
  byId('lang').textContent = t('language')
  byId('lang').lang = lang === 'zh' ? 'en' : 'zh'
  showWho()
  showGate()
  showLeft()
  showSpin()
  showResult()
  showTrouble()
  showSectors()
  names.forEach(show)
  byId('offline').textContent = t('offline')
}

function openWhen() {
  const [begin, end] = [Number(page.begin), Number(page.end)]
  if (!end) return ''
  if (Date.now() < begin) return t('from', day(begin, page.zone))
  const last = end - 1  // a campaign that ends at midnight is open for the last time on the day before
  return t(Date.now() < end ? 'until' : 'over', day(last, page.zone))
}

function showWho() {
  const who = byId('who')
  who.hidden = !player.userId
  if (!player.userId) return
  if (player.token) who.textContent = player.userId
  else who.replaceChildren(el('a', { href: location.pathname, 'aria-label': t('change', player.userId) }, player.userId))
}

/** The page without a player: `gate` is Name, Link, Old or Gone. */
function showGate() {
  byId('gate').hidden = now.gate === null
  byId('stage').hidden = byId('panels').hidden = now.gate !== null
  if (now.gate === null) return
  byId('gate-title').textContent = t(`gate${now.gate}`)
  byId('gate-text').textContent = t(`gate${now.gate}Text`)
  byId('gate-form').hidden = now.gate !== 'Name'
}

const leftToday = a => Math.min(a.totalCountSurplus, a.monthCountSurplus, a.dayCountSurplus)

function showLeft() {
  const a = now.account
  if (!a) return
  const today = leftToday(a)
  const none = a.totalCountSurplus <= 0 ? 'leftNever' : a.monthCountSurplus <= 0 ? 'leftMonth' : 'leftNone'
  byId('left-today').textContent = today > 0 ? t('left', today) : t(none)
  byId('left-all').textContent = t('leftAll', a.totalCountSurplus)
}

function showSpin() {
  const button = byId('spin')
  byId('spin-word').textContent = t(now.spin)
  const none = now.spin === 'spin' && now.account !== null && leftToday(now.account) <= 0
  button.setAttribute('aria-disabled', String(none))
  button.classList.toggle('small', now.spin !== 'spin')
}

/** The latest outcome: `{kind, title, more}`, `kind` being the text above it. */
function showResult() {
  const result = now.result
  byId('result').classList.toggle('full', result !== null)
  byId('result').replaceChildren(...(result
    ? [el('span', { className: 'eyebrow' }, t(result.kind)), el('strong', {}, result.title), ...result.unlocked.length
      ? [el('span', { className: 'news' }, t('unlocked', list(result.unlocked)))] : []]
    : []))
}

/** The latest notice. It is kept as what makes its lines, so that it can be said in another language. */
function showTrouble() {
  const lines = now.trouble?.make().filter(Boolean) ?? []
  byId('notice').hidden = lines.length === 0
  byId('notice').classList.toggle('good', now.trouble?.good ?? false)
  byId('trouble').replaceChildren(...lines.map(line => el('p', {}, line)))
  byId('close').setAttribute('aria-label', t('close'))
}

function say(make, { good = false } = {}) {
  now.trouble = make && { make, good }
  showTrouble()
}

const reasonOf = error => (has(`errors.${error.code}`) ? t(`errors.${error.code}`) : t('errors.other', error.code))

function sayError(error, { unsure = null } = {}) {
  say(() => [
    reasonOf(error),
    unsure ? t(unsure) : error.outcome === 'none' && !error.final ? t('unspent') : null,
    error.wait > 1 ? t('wait', error.wait) : null,
  ])
}

function showSectors() {
  if (!now.sectors) return
  byId('disc-title').textContent = t('disc', now.sectors.length)
}

// What is asked

/** Errors that end what the player can do here; all others are left to the caller. */
function broken(error) {
  if (!(error instanceof Refused)) throw error
  if (error.status !== 401) { sayError(error); return }
  if (player.token) forgetToken()
  gate(player.token ? 'Old' : 'Link')
}

function gate(name) {
  now.gate = name
  now.busy = false
  wheel.rest()
  showGate()
}

async function loadAccount() {
  now.account = await call('activity/query_user_activity_account', { body: user() })
  showLeft()
  showSpin()
}

async function loadPrizes() {
  const prizes = await load('prizes')
  if (!prizes) return []
  const news = now.sectors ? unlocked(now.sectors, prizes) : []
  now.sectors = prizes
  if (prizes.length) wheel.show(prizes.map(p => ({ title: p.awardTitle, locked: !p.isAwardUnlock })))
  showSectors()
  return news
}

/** Everything anew, the wheel first. */
async function refresh(wanted = names) {
  const rest = wanted.filter(name => name !== 'prizes')
  const all = [loadAccount(), ...wanted.includes('prizes') ? [loadPrizes()] : [], ...rest.map(load)]
  for (const done of await Promise.allSettled(all)) {
    if (done.status === 'rejected') { broken(done.reason); return }
  }
}

/** What was earned or bought arrives a moment later; while the wheel turns its prize is not given away. */
function refreshSoon(wanted) {
  for (const ms of [350, 1500, 4000]) setTimeout(() => { if (now.gate === null && !now.busy) refresh(wanted) }, ms)
}

// The draw

const pause = seconds => new Promise(done => { setTimeout(done, seconds * 1000) })

async function spin() {
  if (now.busy) { wheel.skip(); return }
  const resuming = pending('draw') !== null
  if (!resuming && now.account && leftToday(now.account) <= 0) {
    say(() => [byId('left-today').textContent, t('more')])
    return
  }
  if (!now.sectors?.length) { await refresh(['prizes']); if (!now.sectors?.length) return }
  now.busy = true
  now.result = null
  now.spin = resuming ? 'asking' : 'spinning'
  showResult()
  showSpin()
  say(resuming ? () => [t('lost')] : null)
  wheel.start()
  try {
    const { data, resumed } = await settled('draw', {}, ({ requestId }) => call('activity/draw', { body: user({ requestId }) }))
    await landOn(data, resumed || resuming)
  } catch (error) {
    wheel.rest()
    if (!(error instanceof Refused)) throw error
    if (error.status === 401) broken(error)
    else sayError(error, { unsure: error.settled ? null : 'unsure' })
  } finally {
    now.busy = false
    now.spin = pending('draw') ? 'again' : 'spin'
    showSpin()
  }
  if (now.gate === null) await afterDraw()
}

/** Ask once, and again with the same id as long as it is not known what became of it. */
async function settled(kind, detail, send) {
  for (let asked = 0; ; asked++) {
    try {
      return await once(kind, detail, send)
    } catch (error) {
      if (!(error instanceof Refused) || error.settled || error.status === 401 || asked === ASK_AGAIN_SECONDS.length) throw error
      say(() => [reasonOf(error), t('lost')])
      if (kind === 'draw') { wheel.rest(); now.spin = 'asking'; showSpin() }
      await pause(Math.max(ASK_AGAIN_SECONDS[asked], error.wait))
    }
  }
}

async function landOn({ awardId, awardTitle, awardIndex }, resumed) {
  say(null)
  let index = now.sectors.findIndex(sector => sector.sort === awardIndex && sector.awardId === awardId)
  if (index < 0) {  // the campaign was changed since the wheel was drawn
    await loadPrizes()
    index = now.sectors.findIndex(sector => sector.awardId === awardId)
  }
  if (index >= 0) await wheel.land(index)
  else wheel.rest()
  now.result = { kind: resumed ? 'was' : 'yours', title: awardTitle, unlocked: [] }
  showResult()
}

async function afterDraw() {
  try {
    const [news] = await Promise.all([loadPrizes(), loadAccount(), load('tiers')])
    if (news.length && now.result) { now.result.unlocked = news; showResult() }
  } catch (error) { broken(error) }
  refreshSoon(['awards', 'shop'])
}

// The other buttons

/** One action at a time. */
async function alone(action) {
  if (now.busy) return false
  now.busy = true
  try {
    return await action()
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    if (error.status === 401) broken(error)
    else sayError(error, { unsure: error.settled === false ? 'unsure' : null })
    return false
  } finally { now.busy = false }
}

const signIn = () => alone(async () => {
  try {
    await call('activity/calendar_sign_rebate', { query: { userId: player.userId, activityId } })
    say(() => [t('signedNow')], { good: true })
  } catch (error) {
    if (error.code !== '0003') throw error  // signed in already: in another window, or by a call whose answer was lost
    say(() => [t('signed')], { good: true })
  }
  await load('signIn')
  refreshSoon(['signIn', 'shop'])
})

const buy = sku => alone(async () => {
  const send = ({ requestId, sku }) =>
    call('activity/credit_pay_exchange_sku', { body: { userId: player.userId, sku, requestId } })
  if (pending('exchange')) say(() => [t('lost')])
  const { wish, resumed } = await settled('exchange', sku ? { sku: sku.sku, draws: drawsOf(sku) } : {}, send)
  say(() => [t(resumed ? 'boughtWas' : 'bought', wish.draws)], { good: true })
  await refresh(['shop'])
  refreshSoon(['shop'])
})

const claim = (orderId, contact) => alone(async () => {
  await call('activity/claim_award', { body: { userId: player.userId, orderId, contact } })
  say(() => [t('claimed')], { good: true })
  return true
})

// The beginning

function listen() {
  build()
  useActions({ signIn, buy, claim, broken })
  byId('spin').addEventListener('click', spin)
  byId('wheel').addEventListener('click', event => { if (event.target !== byId('spin') && now.busy) wheel.skip() })
  document.addEventListener('keydown', event => { if (event.key === 'Escape') wheel.skip() })
  byId('close').addEventListener('click', () => say(null))
  byId('lang').addEventListener('click', () => {
    speak(lang === 'zh' ? 'en' : 'zh')
    rememberLanguage(lang)
    showWords()
  })
  const line = () => { byId('offline').hidden = navigator.onLine }
  window.addEventListener('offline', line)
  window.addEventListener('online', () => { line(); goOn() })
  document.addEventListener('visibilitychange', () => { if (!document.hidden) goOn() })
}

/** Find out what a lost connection left unknown, then show how things stand. */
async function goOn() {
  if (now.gate !== null || now.busy) return
  await refresh()
  if (now.gate === null && pending('exchange')) await buy(null)
  if (now.gate === null && !now.busy && pending('draw')) await spin()
}

function begin() {
  speak(wantedLanguage())
  if (new URLSearchParams(location.search).has('lang')) rememberLanguage(lang)
  if (!page.activity) now.gate = 'Gone'
  else if (!player.userId) now.gate = player.broken ? 'Old' : page.access === 'open' ? 'Name' : 'Link'
  listen()
  showWords()
  goOn()
}

begin()
