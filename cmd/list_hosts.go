package cmd

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// claimed is an instance as the volumes that it holds show it.
type claimed struct {
	volume.Attachment // the first of them
	volumes           []string
}

// printClaimed lists the instances of all hosts by what is noted on volumes of them.
func (a *App) printClaimed(ctx context.Context, f filters, long bool) error {
	s, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	all, damaged := s.Volumes(ctx)
	if damaged != nil && all == nil {
		return damaged
	}
	l := listing{Columns: []string{"ID", "Name", "Host", "Since", "Volumes", "Host ID", "Boot ID"}}
	columns := len(l.Columns)
	if !long {
		columns -= 2
	}
	for _, c := range claimedBy(all) {
		if !f.take(facts{name: c.InstanceName, hosts: []string{c.Host, c.HostID}}) {
			continue
		}
		var since any
		if !c.Since.IsZero() {
			since = c.Since
		}
		l.Rows = append(l.Rows, []any{c.InstanceID, c.InstanceName, c.Host, since, c.volumes, c.HostID, c.BootID})
	}
	if err := f.printSome(a, l, columns); err != nil {
		return err
	}
	a.say("a hint, from what is noted on volumes: what an instance is, its own host says")
	return damaged
}

// claimedBy are the instances that hold volumes, on each host, sorted by name.
func claimedBy(volumes []volume.Volume) (all []claimed) {
	for _, v := range volumes {
		for _, a := range v.Attachments {
			if a.InstanceID == "" {
				continue // another program's
			}
			i := slices.IndexFunc(all, func(c claimed) bool {
				return c.InstanceID == a.InstanceID && c.HostID == a.HostID && c.Host == a.Host
			})
			if i < 0 {
				all = append(all, claimed{Attachment: a})
				i = len(all) - 1
			}
			c := &all[i]
			c.volumes = append(c.volumes, v.ID)
			c.InstanceName = cmp.Or(c.InstanceName, a.InstanceName)
			if earlier(a.Since, c.Since) {
				c.Since = a.Since
			}
		}
	}
	slices.SortFunc(all, func(x, y claimed) int {
		return strings.Compare(x.InstanceName+" "+x.InstanceID+" "+x.HostID, y.InstanceName+" "+y.InstanceID+" "+y.HostID)
	})
	return all
}

// earlier says whether a time is known, and before another one or that is not.
func earlier(t, than time.Time) bool { return !t.IsZero() && (than.IsZero() || t.Before(than)) }
