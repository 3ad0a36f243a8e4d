// A scenario for the npm package xen-api: node xen_api_scenario.mjs NODE_MODULES URL json-rpc|xml-rpc
const [modules, url, rpc] = process.argv.slice(2)
const { createClient } = await import(`${modules}/xen-api/index.mjs`)
const auth = { user: 'root', password: 'secret' }
const xapi = createClient({ url, allowUnauthorized: true, auth, watchEvents: true, rpc })
await xapi.connect()
await xapi.objectsFetched
const host = Object.values(xapi.objects.all).find(object => object.$type === 'host')
const config = { server: 'nas', serverpath: '/exports/vm' }
const sr = await xapi.call('SR.create', host.$ref, config, 0, `by ${rpc}`, '', 'nfs', 'user', true, {})
const record = { name_label: 'v', SR: sr, virtual_size: 4194304, type: 'user', sharable: false, read_only: false }
const vdi = await xapi.call('VDI.create', { ...record, other_config: {} })
await xapi.barrier()
const seen = xapi.getObjectByRef(vdi)
const snapshot = await xapi.callAsync('VDI.snapshot', vdi)
await xapi.barrier()
const failure = await xapi.call('VDI.destroy', 'OpaqueRef:none').catch(error => [error.code, ...error.params])
const result = { size: seen.virtual_size, sr: seen.$SR.name_label, snapshot: xapi.getObjectByRef(snapshot).is_a_snapshot }
console.log(JSON.stringify({ ...result, failure }))
await xapi.disconnect()
process.exit(0)
