// Every word of the page, in English and Chinese, and how dates and numbers are written.

const draws = n => `${num(n)} ${n === 1 ? 'draw' : 'draws'}`
const credits = n => `${num(n)} ${n === 1 ? 'credit' : 'credits'}`

const en = {
  language: '中文', page: 'Prize wheel', until: d => `Open until ${d}`, from: d => `Opens on ${d}`,
  over: d => `Ended on ${d}`, change: name => `${name}, choose another name`,
  spin: 'Spin', spinning: 'Spinning', asking: 'Asking', again: 'Ask again', close: 'Close',
  keys: 'Enter spins, Escape skips the turning.',
  left: n => `${draws(n)} left today`, leftAll: n => `${num(n)} in all`,
  leftNone: 'No draws left today', leftNever: 'No draws left', leftMonth: 'No draws left this month',
  more: 'More come from signing in or from the credit shop, where this campaign has them.',
  disc: n => `Wheel with ${n} prizes`, yours: 'Your draw', was: 'This was your draw',
  unlocked: names => `Now unlocked: ${names}`,
  lost: 'The connection broke. We are asking what became of it; it counts once.',
  unsure: 'What became of it is not known yet. Ask again: it is the same request and counts once.',
  signIn: 'Sign in every day', signNow: 'Sign in today', signed: 'Signed in today',
  signedNow: 'You are signed in. What it earns is on its way.', streak: n => `${num(n)} ${n === 1 ? 'day' : 'days'} in a row`,
  dayDone: 'signed in', dayToday: 'today',
  tiers: 'Special draws', tier: n => `Draw ${num(n)}`, tierPrizes: names => `Only among ${names}`,
  tierLeft: n => `${draws(n)} to go`, tierDone: 'Reached', tierNext: 'Next draw!',
  shop: 'Credit shop', balance: n => `You have ${credits(n)}`, give: draws,
  giveLimits: (day, month) => `up to ${num(day)} a day, ${num(month)} a month`,
  price: credits, stock: n => `${num(n)} left`, soldOut: 'Sold out', buy: (draws, price) => `Get ${draws} for ${price}`,
  short: n => `${credits(n)} short`, bought: n => `Exchanged: ${draws(n)} for you.`,
  boughtWas: n => `Your earlier exchange went through: ${draws(n)} for you.`,
  prizes: 'Prizes', locked: n => `Unlocks after ${n} more ${n === 1 ? 'draw' : 'draws'} today`, open: 'Unlocked',
  awards: 'My prizes', none: 'Nothing yet. What you win appears here.', older: 'Show older',
  state: {
    completed: 'Yours', waiting: 'On its way', unclaimed: 'Waiting for you',
    claimed: 'Being prepared', shipped: 'Shipped', delivered: 'Delivered', failed: 'Could not be delivered', expired: 'Not claimed in time',
    void: 'Withdrawn',
  },
  claim: 'Enter your address', claimBefore: d => `Please do so by ${d}.`, person: 'Name', phone: 'Phone', address: 'Address', send: 'Send',
  claimNote: 'Used for sending this prize only.', claimed: 'Thank you. Your prize will be sent to that address.',
  code: 'Your code', tracking: 'Tracking number', userName: 'User name', enter: 'Enter',
  gateName: 'Who is playing?', gateNameText: 'Enter your user name to see your draws and prizes.',
  gateLink: 'You need your own link', gateLinkText: 'Open this page with the link that the organiser gave you.',
  gateOld: 'Your link is no longer valid', gateOldText: 'Open this page again from where you came, or ask the organiser for a new link. Nothing is lost.',
  gateGone: 'There is no such campaign', gateGoneText: 'The address may be mistyped, or the campaign is gone.',
  panelFailed: 'This part cannot be shown right now.', retry: 'Try again',
  offline: 'You are offline. The page goes on when the connection is back.',
  errors: {
    offline: 'The server cannot be reached.', late: 'The server takes too long to answer.',
    '0001': 'The server could not do this right now.', '0002': 'Something that was entered is not accepted.',
    '0004': 'The campaign is paused for a moment.', '0005': 'That was quick. Wait a little and try again.',
    '0006': 'Many people are here right now. Try again in a moment.',
    ERR_BIZ_002: 'The campaign is not ready yet.', ERR_BIZ_003: 'The campaign is not open.',
    ERR_BIZ_004: 'The campaign has not begun or is over.', ERR_BIZ_005: 'This is sold out.', ERR_BIZ_006: 'You have no draws left.',
    ERR_BIZ_007: 'You have used all your draws of this month.', ERR_BIZ_008: 'You have used all your draws of today.',
    ERR_CREDIT_001: 'You do not have enough credits.', other: code => `The server refused (${code}).`,
  },
  unspent: 'Nothing was spent.', wait: n => `Try again in ${n} ${n === 1 ? 'second' : 'seconds'}.`,
}

const zh = {
  language: 'English', page: '幸运转盘', until: d => `${d} 截止`, from: d => `${d} 开始`, over: d => `已于 ${d} 结束`,
  change: name => `${name}，换一个用户名`,
  spin: '抽奖', spinning: '转动中', asking: '查询中', again: '再次查询', close: '关闭', keys: '回车键抽奖，Esc 键跳过动画。',
  left: n => `今天还可抽 ${num(n)} 次`, leftAll: n => `共剩 ${num(n)} 次`,
  leftNone: '今天的抽奖次数已用完', leftNever: '抽奖次数已用完', leftMonth: '本月的抽奖次数已用完',
  more: '如本活动提供签到或积分兑换，可获得更多次数。',
  disc: n => `转盘，共 ${n} 个奖品`, yours: '本次抽中', was: '这是您刚才的抽奖结果',
  unlocked: names => `已解锁：${names}`,
  lost: '网络中断，正在查询刚才的结果，只计一次。', unsure: '暂时无法确认刚才的结果。请再次查询：仍是同一次请求，只计一次。',
  signIn: '每日签到', signNow: '今日签到', signed: '今日已签到', signedNow: '签到成功，奖励正在到账。', streak: n => `连续 ${num(n)} 天`,
  dayDone: '已签到', dayToday: '今天',
  tiers: '特别抽奖', tier: n => `第 ${num(n)} 次抽奖`, tierPrizes: names => `仅从中抽取：${names}`, tierLeft: n => `还差 ${num(n)} 次`,
  tierDone: '已达成', tierNext: '下一抽！',
  shop: '积分兑换', balance: n => `当前积分 ${num(n)}`, give: n => `${num(n)} 次抽奖`,
  giveLimits: (day, month) => `每日最多 ${num(day)} 次，每月最多 ${num(month)} 次`,
  price: n => `${num(n)} 积分`, stock: n => `剩余 ${num(n)} 份`, soldOut: '已兑完', buy: (draws, price) => `用${price}兑换${draws}`, short: n => `还差 ${num(n)} 积分`,
  bought: n => `兑换成功，获得 ${num(n)} 次抽奖。`, boughtWas: n => `刚才的兑换已成功，获得 ${num(n)} 次抽奖。`,
  prizes: '奖品', locked: n => `今天再抽 ${num(n)} 次解锁`, open: '已解锁',
  awards: '我的奖品', none: '还没有奖品，抽中后会显示在这里。', older: '更早的',
  state: {
    completed: '已到账', waiting: '发放中', unclaimed: '待领取', claimed: '备货中', shipped: '已发货',
    delivered: '已送达', failed: '发放失败', expired: '逾期未领', void: '已撤回',
  },
  claim: '填写收货信息', claimBefore: d => `请于${d}前填写`, person: '姓名', phone: '电话', address: '地址', send: '提交', claimNote: '仅用于寄送此奖品。',
  claimed: '谢谢，奖品将寄往该地址。', code: '兑换码', tracking: '运单号', userName: '用户名', enter: '进入',
  gateName: '请问您是？', gateNameText: '输入用户名，查看您的抽奖次数和奖品。',
  gateLink: '需要您的专属链接', gateLinkText: '请通过主办方给您的链接打开此页面。',
  gateOld: '链接已失效', gateOldText: '请从原来的入口重新打开，或向主办方索取新链接。您的权益不会丢失。',
  gateGone: '没有这个活动', gateGoneText: '地址可能有误，或活动已下线。',
  panelFailed: '这部分暂时无法显示。', retry: '重试', offline: '网络已断开，恢复后页面会继续。',
  errors: {
    offline: '无法连接服务器。', late: '服务器响应超时。', '0001': '服务器暂时未能完成操作。', '0002': '填写的内容不符合要求。',
    '0004': '活动暂时停止，请稍后再来。', '0005': '操作太快了，请稍等再试。', '0006': '现在人太多了，请稍后再试。',
    ERR_BIZ_002: '活动尚未准备好。', ERR_BIZ_003: '活动未开放。', ERR_BIZ_004: '活动尚未开始或已经结束。',
    ERR_BIZ_005: '已经兑完了。', ERR_BIZ_006: '抽奖次数已用完。', ERR_BIZ_007: '本月的抽奖次数已用完。', ERR_BIZ_008: '今天的抽奖次数已用完。',
    ERR_CREDIT_001: '积分不足。', other: code => `服务器拒绝了请求（${code}）。`,
  },
  unspent: '没有任何消耗。', wait: n => `请在 ${n} 秒后重试。`,
}

export const languages = { en, zh }
export let lang = 'en'
let words = en

/** Speak this language from now on; anything that is not Chinese is answered in English. */
export function speak(wanted) {
  lang = /^zh\b/i.test(wanted) ? 'zh' : 'en'
  words = languages[lang]
}

/** The text of that name; `state.shipped` is inside a group. Texts with facts take them as arguments. */
export function t(name, ...facts) {
  const text = name.split('.').reduce((group, key) => group?.[key], words)
  return typeof text === 'function' ? text(...facts) : text
}

export const has = name => t(name) !== undefined

const locale = () => (lang === 'zh' ? 'zh-CN' : 'en-GB')
export const num = n => new Intl.NumberFormat(locale(), { maximumFractionDigits: 2 }).format(n)
export const list = (names, type) => new Intl.ListFormat(locale(), { type }).format(names)
export const day = (moment, zone) =>
  new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeZone: zone || undefined }).format(new Date(moment))
export const monthName = (year, month) =>
  new Intl.DateTimeFormat(locale(), { year: 'numeric', month: 'short', timeZone: 'UTC' }).format(Date.UTC(year, month - 1, 1))
/** Monday to Sunday, one or two letters each; 5 January 2026 was a Monday. */
export const weekdays = () =>
  [5, 6, 7, 8, 9, 10, 11].map(d =>
    new Intl.DateTimeFormat(locale(), { weekday: 'narrow', timeZone: 'UTC' }).format(Date.UTC(2026, 0, d)))
