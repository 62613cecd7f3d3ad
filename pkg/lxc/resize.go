package lxc

import (
	"context"

	"libvirt.org/go/libvirt"
)

// Limit sets the memory and the CPUs' worth of time that a running container may use, as
// libvirt's own control groups hold them, until it ends. What its definition says stays.
func (h *Host) Limit(ctx context.Context, id string, memoryMiB, vcpus int) error {
	return h.changeDomain(ctx, id, func(d *libvirt.Domain) error {
		err := d.SetMemoryParameters(&libvirt.DomainMemoryParameters{HardLimitSet: true, HardLimit: uint64(memoryMiB) * 1024}, libvirt.DOMAIN_AFFECT_LIVE)
		if err != nil {
			return err
		}
		return d.SetSchedulerParametersFlags(&libvirt.DomainSchedulerParameters{
			VcpuPeriodSet: true, VcpuPeriod: cpuPeriod, VcpuQuotaSet: true, VcpuQuota: int64(vcpus) * cpuPeriod,
		}, libvirt.DOMAIN_AFFECT_LIVE)
	})
}
