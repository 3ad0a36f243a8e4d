"""The fields of the classes that the simulator keeps: `class: field type, field type, …`.

`str int bool float date` are plain; `strs` is a set of strings, `map` maps strings to strings; `enum:VALUE`
starts as VALUE; `ref` and `refs` point at objects; `dict` and `list` are whatever else starts empty.
A leading `!` marks a field that clients may set.
"""

TEXT = """
session: uuid str, this_host ref, this_user ref, last_active date, pool bool, !other_config map,
  is_local_superuser bool, subject ref, validation_time date, auth_user_sid str, auth_user_name str,
  rbac_permissions strs, tasks refs, parent ref, originator str, client_certificate bool
task: uuid str, name_label str, name_description str, allowed_operations list, current_operations dict,
  created date, finished date, status enum:pending, resident_on ref, progress float, type str,
  result str, error_info strs, other_config map, subtask_of ref, subtasks refs, backtrace str
pool: uuid str, !name_label str, !name_description str, master ref, !default_SR ref,
  !suspend_image_SR ref, !crash_dump_SR ref, !other_config map, ha_enabled bool, ha_configuration map,
  ha_statefiles strs, ha_host_failures_to_tolerate int, ha_plan_exists_for int,
  !ha_allow_overcommit bool, ha_overcommitted bool, blobs dict, !tags strs, !gui_config map,
  !health_check_config map, wlb_url str, wlb_username str, !wlb_enabled bool, !wlb_verify_cert bool,
  redo_log_enabled bool, redo_log_vdi ref, vswitch_controller str, restrictions map, metadata_VDIs refs,
  ha_cluster_stack str, allowed_operations list, current_operations dict, guest_agent_config map,
  cpu_info map, !policy_no_vendor_device bool, !live_patching_disabled bool, igmp_snooping_enabled bool,
  uefi_certificates str, custom_uefi_certificates str, !is_psr_pending bool,
  tls_verification_enabled bool, repositories refs, client_certificate_auth_enabled bool,
  client_certificate_auth_name str, repository_proxy_url str, repository_proxy_username str,
  repository_proxy_password ref, !migration_compression bool, !coordinator_bias bool,
  local_auth_max_threads int, ext_auth_max_threads int, ext_auth_cache_enabled bool,
  ext_auth_cache_size int, ext_auth_cache_expiry int, telemetry_uuid ref,
  telemetry_frequency enum:weekly, telemetry_next_collection date, last_update_sync date,
  update_sync_frequency enum:weekly, update_sync_day int, update_sync_enabled bool, recommendations map,
  !license_server map, !ha_reboot_vm_on_internal_shutdown bool, !limit_console_sessions bool,
  !vm_console_idle_timeout int, !auto_update_vm_secureboot_certificates bool
host: uuid str, !name_label str, !name_description str, memory_overhead int, allowed_operations list,
  current_operations dict, API_version_major int, API_version_minor int, API_version_vendor str,
  API_version_vendor_implementation map, enabled bool, software_version map, !other_config map,
  capabilities strs, cpu_configuration map, sched_policy str, supported_bootloaders strs,
  resident_VMs refs, !logging map, PIFs refs, !suspend_image_sr ref, !crash_dump_sr ref,
  crashdumps refs, patches refs, updates refs, PBDs refs, host_CPUs refs, cpu_info map, !hostname str,
  !address str, metrics ref, license_params map, ha_statefiles strs, ha_network_peers strs, blobs dict,
  !tags strs, external_auth_type str, external_auth_service_name str, external_auth_configuration map,
  edition str, !license_server map, bios_strings map, power_on_mode str, power_on_config map,
  local_cache_sr ref, chipset_info map, PCIs refs, PGPUs refs, PUSBs refs, ssl_legacy bool,
  !guest_VCPUs_params map, !display enum:enabled, virtual_hardware_platform_versions list,
  control_domain ref, updates_requiring_reboot refs, features refs, iscsi_iqn str, multipathing bool,
  uefi_certificates str, certificates refs, editions strs, pending_guidances list,
  tls_verification_enabled bool, last_software_update date, https_only bool,
  latest_synced_updates_applied enum:unknown, numa_affinity_policy enum:default_policy,
  pending_guidances_recommended list, pending_guidances_full list, last_update_hash str,
  ssh_enabled bool, ssh_enabled_timeout int, ssh_expiry date, console_idle_timeout int,
  ssh_auto_mode bool, max_cstate str, secure_boot bool, ntp_mode enum:Factory, ntp_custom_servers strs,
  timezone str
host_metrics: uuid str, memory_total int, memory_free int, live bool, last_updated date,
  !other_config map
VM: uuid str, allowed_operations list, current_operations dict, !name_label str, !name_description str,
  power_state enum:Halted, !user_version int, !is_a_template bool, is_default_template bool,
  suspend_VDI ref, resident_on ref, scheduled_to_be_resident_on ref, !affinity ref, memory_overhead int,
  memory_target int, memory_static_max int, memory_dynamic_max int, memory_dynamic_min int,
  memory_static_min int, !VCPUs_params map, VCPUs_max int, VCPUs_at_startup int,
  !actions_after_softreboot enum:soft_reboot, !actions_after_shutdown enum:destroy,
  !actions_after_reboot enum:destroy, actions_after_crash enum:destroy, consoles refs, VIFs refs,
  VBDs refs, VUSBs refs, crash_dumps refs, VTPMs refs, !PV_bootloader str, !PV_kernel str,
  !PV_ramdisk str, !PV_args str, !PV_bootloader_args str, !PV_legacy_args str, HVM_boot_policy str,
  !HVM_boot_params map, HVM_shadow_multiplier float, platform map, !PCI_bus str, other_config map,
  domid int, domarch str, last_boot_CPU_flags map, is_control_domain bool, metrics ref,
  guest_metrics ref, last_booted_record str, !recommendations str, !xenstore_data map,
  ha_always_run bool, ha_restart_priority str, is_a_snapshot bool, snapshot_of ref, snapshots refs,
  snapshot_time date, transportable_snapshot_id str, blobs dict, !tags strs, blocked_operations dict,
  snapshot_info map, snapshot_metadata str, parent ref, children refs, bios_strings map,
  protection_policy ref, is_snapshot_from_vmpp bool, snapshot_schedule ref, is_vmss_snapshot bool,
  appliance ref, start_delay int, shutdown_delay int, order int, VGPUs refs, attached_PCIs refs,
  !suspend_SR ref, version int, generation_id str, !hardware_platform_version int,
  has_vendor_device bool, requires_reboot bool, reference_label str, domain_type enum:unspecified,
  NVRAM map, pending_guidances list, pending_guidances_recommended list, pending_guidances_full list,
  groups refs, secureboot_certificates_state enum:ok
VM_guest_metrics: uuid str, os_version map, netbios_name map, PV_drivers_version map,
  PV_drivers_up_to_date bool, memory map, disks map, networks map, other map, last_updated date,
  !other_config map, live bool, can_use_hotplug_vbd enum:unspecified,
  can_use_hotplug_vif enum:unspecified, PV_drivers_detected bool, services map
SM: uuid str, name_label str, name_description str, type str, vendor str, copyright str, version str,
  required_api_version str, configuration map, capabilities strs, features dict, !other_config map,
  driver_filename str, required_cluster_stack strs, supported_image_formats list
SR: uuid str, name_label str, name_description str, allowed_operations list, current_operations dict,
  VDIs refs, PBDs refs, virtual_allocation int, physical_utilisation int, physical_size int, type str,
  content_type str, shared bool, !other_config map, !tags strs, !sm_config map, blobs dict,
  local_cache_enabled bool, introduced_by ref, clustered bool, is_tools_sr bool
PBD: uuid str, host ref, SR ref, device_config map, currently_attached bool, !other_config map
VDI: uuid str, name_label str, name_description str, allowed_operations list, current_operations dict,
  SR ref, VBDs refs, crash_dumps refs, virtual_size int, physical_utilisation int, type enum:system,
  sharable bool, read_only bool, !other_config map, storage_lock bool, location str, managed bool,
  missing bool, parent ref, !xenstore_data map, !sm_config map, is_a_snapshot bool, snapshot_of ref,
  snapshots refs, snapshot_time date, !tags strs, allow_caching bool, on_boot enum:persist,
  metadata_of_pool ref, metadata_latest bool, is_tools_iso bool, cbt_enabled bool
VBD: uuid str, allowed_operations list, current_operations dict, VM ref, VDI ref, device str,
  !userdevice str, !bootable bool, mode enum:RO, !type enum:CD, !unpluggable bool, storage_lock bool,
  empty bool, !other_config map, currently_attached bool, status_code int, status_detail str,
  runtime_properties map, !qos_algorithm_type str, !qos_algorithm_params map,
  qos_supported_algorithms strs, metrics ref
secret: uuid str, !value str, !other_config map
network: uuid str, !name_label str, !name_description str, allowed_operations list,
  current_operations dict, VIFs refs, PIFs refs, !MTU int, !other_config map, bridge str, managed bool,
  blobs dict, !tags strs, default_locking_mode enum:unlocked, assigned_ips dict, purpose list
PIF: uuid str, device str, network ref, host ref, MAC str, MTU int, VLAN int, metrics ref,
  physical bool, currently_attached bool, ip_configuration_mode enum:None, IP str, netmask str,
  gateway str, DNS str, bond_slave_of ref, bond_master_of refs, VLAN_master_of ref, VLAN_slave_of refs,
  management bool, !other_config map, disallow_unplug bool, tunnel_access_PIF_of refs,
  tunnel_transport_PIF_of refs, ipv6_configuration_mode enum:None, IPv6 strs, ipv6_gateway str,
  primary_address_type enum:IPv4, managed bool, properties map, capabilities strs,
  igmp_snooping_status enum:unknown, sriov_physical_PIF_of refs, sriov_logical_PIF_of refs, PCI ref
message: uuid str, name str, priority int, cls enum:VM, obj_uuid str, timestamp date, body str
"""

NULL = "OpaqueRef:NULL"


def parse(text: str = TEXT) -> dict[str, dict[str, str]]:
    """Return class to field to type (with its `!`)."""
    classes: dict[str, dict[str, str]] = {}
    for whole in text.strip().splitlines():
        line = whole
        if not whole.startswith("  "):
            name, _, line = whole.partition(":")
            fields = classes[name] = {}
        for item in line.strip().rstrip(",").split(","):
            if item.strip():
                field, kind = item.split()
                fields[field.lstrip("!")] = ("!" if field.startswith("!") else "") + kind
    return classes


CLASSES = parse()


def empty(kind: str) -> object:
    """Return what a field of this type starts as."""
    kind = kind.lstrip("!")
    if kind.startswith("enum:"):
        return kind[5:]
    plain: dict[str, object] = {"str": "", "int": 0, "bool": False, "float": 0.0, "ref": NULL}
    if kind in plain:
        return plain[kind]
    if kind == "date":
        return "19700101T00:00:00Z"
    return {} if kind in {"map", "dict"} else []
