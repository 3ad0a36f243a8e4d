// A scenario for the npm package xen-api: node xen_api_scenario.mjs URL json-rpc|xml-rpc
import { createClient } from 'xen-api'

const [url, rpc] = process.argv.slice(2)
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
const content = Buffer.alloc(4194304)
content.fill('written by xen-api ', 4096, 65536)
await xapi.putResource(content, '/import_raw_vdi', { query: { vdi, format: 'raw' }, task: true })
const snapshot = await xapi.callAsync('VDI.snapshot', vdi)
await xapi.barrier()
const answer = await xapi.getResource('/export_raw_vdi', { query: { vdi: snapshot, format: 'raw' }, task: true })
const parts = []
for await (const part of answer.body ?? answer) parts.push(part)
const failure = await xapi.call('VDI.destroy', 'OpaqueRef:none').catch(error => [error.code, ...error.params])
await xapi.call('VDI.set_name_label', vdi, 'renamed')
await xapi.barrier()
const result = {
  size: seen.virtual_size,
  sr: seen.$SR.name_label,
  snapshot: xapi.getObjectByRef(snapshot).is_a_snapshot,
  same: Buffer.concat(parts).equals(content),
  renamed: xapi.getObjectByRef(vdi).name_label,
  failure,
}
console.log(JSON.stringify(result))
await xapi.disconnect()
process.exit(0)
