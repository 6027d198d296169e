// Who plays, on what, and what this browser remembers.

export const page = document.documentElement.dataset
export const activityId = Number(page.activity)

const query = new URLSearchParams(location.search)

/** A store that forgets with the page where the browser allows none (a frame without third-party storage). */
function careful(name) {
  const kept = new Map()
  const real = () => { try { return window[name] } catch { return null } }
  return {
    get(key) { try { return real().getItem(key) ?? kept.get(key) ?? null } catch { return kept.get(key) ?? null } },
    set(key, value) { kept.set(key, value); try { real().setItem(key, value) } catch { /* kept in memory */ } },
    drop(key) { kept.delete(key); try { real().removeItem(key) } catch { /* was in memory */ } },
  }
}

export const lasting = careful('localStorage')
const session = careful('sessionStorage')
const TOKEN = 'bigmarket.token'

function tokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token')
  if (!token) return null
  session.set(TOKEN, token)
  history.replaceState(history.state, '', location.pathname + location.search)
  return token
}

function subjectOf(token) {
  try {
    const claims = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')
    const bytes = Uint8Array.from(atob(claims), c => c.charCodeAt(0))
    const { sub, openId } = JSON.parse(new TextDecoder().decode(bytes))
    return (sub ?? openId) || null
  } catch { return null }
}

/** `{userId, token}`; userId null when nobody is known, `broken` when a token cannot be read. */
function whoPlays() {
  const fresh = tokenFromAddress()
  const named = page.access === 'open' ? query.get('userId')?.trim() : null
  if (!fresh && named) return { userId: named, token: null }
  const token = fresh ?? session.get(TOKEN)
  const userId = token && subjectOf(token)
  return { userId, token: userId ? token : null, broken: Boolean(token) && !userId }
}

export const player = whoPlays()
export const forgetToken = () => session.drop(TOKEN)
window.addEventListener('hashchange', () => { if (tokenFromAddress()) location.reload() })

export const wantedLanguage = () => query.get('lang') ?? lasting.get('bigmarket.lang') ?? navigator.language
export const rememberLanguage = lang => lasting.set('bigmarket.lang', lang)
