package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Who holds a volume is kept in the volume's metadata, three entries per instance:
//
//	lxcboot_attached_INSTANCE = reserving since TIME
//	lxcboot_attached_INSTANCE = ATTACHMENT on HOST
//	lxcboot_host_INSTANCE     = HOST-ID BOOT-ID ATTACHMENT on HOST
//	lxcboot_name_INSTANCE     = NAME since TIME on HOST
//
// The first is as it always was: whoever reads it takes what follows " on " for the
// host's name. An older lxcboot changes and removes the first alone, so the second
// repeats it after the ids, which count only while the two agree. The third has the name
// of the instance, and when it reserved the volume; it counts while it names the same host,
// or the same time.
//
// Cinder's own field for it, instance_uuid, is meant for Nova: Cinder asks Nova
// before it lets a user delete such an attachment once it is connected. And the
// host is shown to administrators only. The claim decides nothing: that only one
// gets the volume is Cinder's doing.
const (
	claimPrefix = "lxcboot_attached_"
	hostPrefix  = "lxcboot_host_"
	namePrefix  = "lxcboot_name_"
)

// metaFormer is the entry with the attachments that were taken from the host that made
// them, the last one first: ids with spaces between, at most maxFormer. By it a host
// that comes back learns who has its volume now.
const (
	metaFormer = "lxcboot_former"
	maxFormer  = 6
)

// claimLife is how long a reservation can be under way. A claim that has been
// "reserving" for longer was left by a crash.
const claimLife = 15 * time.Minute

// noteLife is how long after its beginning a reservation may still be about to note which
// attachment it made.
const noteLife = 10 * time.Second

// claim is one entry.
type claim struct {
	instance   string
	name       string    // the instance's; older ones lack it
	attachment string    // empty while reserving
	host       host.Host // older ones lack the ids, and all of it until connected
	since      time.Time // older ones lack it once they have an attachment
}

// reserving is the claim of an instance that is about to reserve a volume.
func reserving(by volume.Instance, on host.Host) claim {
	return claim{instance: by.ID, name: by.Name, host: on, since: time.Now().UTC().Truncate(time.Second)}
}

func (c claim) value() string {
	switch {
	case c.attachment == "":
		return "reserving since " + c.since.Format(time.RFC3339)
	case c.host.Name == "":
		return c.attachment
	}
	return c.attachment + " on " + c.host.Name
}

// entries are those of the volume's metadata.
func (c claim) entries() map[string]string {
	all := map[string]string{
		claimPrefix + c.instance: c.value(),
		hostPrefix + c.instance:  c.host.ID + " " + c.host.BootID + " " + c.value(),
	}
	if c.name != "" {
		all[namePrefix+c.instance] = c.name + " since " + c.since.Format(time.RFC3339) + " on " + c.host.Name
	}
	return all
}

// of makes an attachment the claim's.
func (c claim) of(a volume.Attachment) volume.Attachment {
	a.InstanceID, a.InstanceName, a.Host, a.HostID, a.BootID = c.instance, c.name, c.host.Name, c.host.ID, c.host.BootID
	a.Since = c.since
	return a
}

// live says whether the reservation may still be under way.
func (c claim) live() bool { return c.attachment == "" && time.Since(c.since) < claimLife }

// claims reads the entries of a volume.
func claims(meta map[string]string) []claim {
	var all []claim
	for key, value := range meta {
		instance, ok := strings.CutPrefix(key, claimPrefix)
		if !ok {
			continue
		}
		c := claim{instance: instance}
		if since, ok := strings.CutPrefix(value, "reserving since "); ok {
			c.since, _ = time.Parse(time.RFC3339, since)
		} else {
			c.attachment, c.host.Name, _ = strings.Cut(value, " on ")
		}
		if ids := strings.SplitN(meta[hostPrefix+instance], " ", 3); len(ids) == 3 && ids[2] == value {
			c.host.ID, c.host.BootID = ids[0], ids[1]
		}
		name, rest, _ := strings.Cut(meta[namePrefix+instance], " since ")
		at, on, ok := strings.Cut(rest, " on ")
		since, err := time.Parse(time.RFC3339, at)
		if ok && err == nil && (c.attachment == "" && since.Equal(c.since) || c.attachment != "" && on == c.host.Name) {
			c.name, c.since, c.host.Name = name, since, on
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b claim) int { return strings.Compare(a.instance, b.instance) })
	return all
}

// claimOf finds the claim that names an attachment; a zero one when none does.
func claimOf(meta map[string]string, attachmentID string) claim {
	for _, c := range claims(meta) {
		if c.attachment == attachmentID {
			return c
		}
	}
	return claim{}
}

// setClaim writes the entries of a claim.
func (s *Store) setClaim(ctx context.Context, volumeID string, c claim) error {
	return call(ctx, s, "cinder", fmt.Sprintf("noting on volume %s that instance %s holds it", volumeID, c.instance), func(error) error {
		return s.post(ctx, s.cinder.ServiceURL("volumes", volumeID, "metadata"), map[string]any{"metadata": c.entries()})
	})
}

// dropClaim removes the entries of a claim, what tells its reader most at last; one
// that is not there is done.
func (s *Store) dropClaim(ctx context.Context, volumeID, instanceID string) error {
	drop := func(prefix string) error {
		return call(ctx, s, "cinder", fmt.Sprintf("noting on volume %s that instance %s holds it no longer", volumeID, instanceID), func(error) error {
			resp, err := s.cinder.Delete(ctx, s.cinder.ServiceURL("volumes", volumeID, "metadata", prefix+instanceID),
				&gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusNotFound}})
			_, _, err = gophercloud.ParseResponse(resp, err)
			return err
		})
	}
	// Two at once, as each takes Cinder a while.
	named := make(chan error, 1)
	go func() { named <- drop(namePrefix) }()
	if err := errors.Join(drop(hostPrefix), <-named); err != nil {
		return err
	}
	return drop(claimPrefix)
}

// dropStale removes the claims on a volume that nobody holds but those that have just
// been made. Their attachments were deleted by another program, or by somebody who
// ended before their claim was gone too.
func (s *Store) dropStale(ctx context.Context, v volume.Volume) error {
	var stale, former []string
	for _, c := range claims(v.Metadata) {
		if !c.live() {
			stale = append(stale, c.instance)
			if c.attachment != "" {
				former = append(former, c.attachment)
			}
		}
	}
	for key := range v.Metadata { // what an older lxcboot left of a claim
		for _, prefix := range []string{hostPrefix, namePrefix} {
			instance, ok := strings.CutPrefix(key, prefix)
			if ok && v.Metadata[claimPrefix+instance] == "" && !slices.Contains(stale, instance) {
				stale = append(stale, instance)
			}
		}
	}
	err := s.noteFormer(ctx, v, former...)
	for _, instance := range stale {
		if err == nil {
			err = s.dropClaim(ctx, v.ID, instance)
		}
	}
	return err
}

// noteFormer notes attachments that were taken from the hosts that made them.
func (s *Store) noteFormer(ctx context.Context, v volume.Volume, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	ids = append(ids, slices.DeleteFunc(formerOf(v), func(id string) bool { return slices.Contains(ids, id) })...)
	ids = ids[:min(len(ids), maxFormer)]
	return call(ctx, s, "cinder", "noting on volume "+v.ID+" what held it before", func(error) error {
		return s.post(ctx, s.cinder.ServiceURL("volumes", v.ID, "metadata"),
			map[string]any{"metadata": map[string]string{metaFormer: strings.Join(ids, " ")}})
	})
}

// formerOf are the attachments that were taken from the hosts that made them.
func formerOf(v volume.Volume) []string { return strings.Fields(v.Metadata[metaFormer]) }

// beginner is the claim whose attachment one without a name on it must be: the only
// one that can have made it. An attachment that was ever connected always has a name on
// it. With an instance it is that one's claim or none; of several it cannot be told, and is
// unclear while one of them may be about to say so.
func beginner(status, instanceID string, all []claim) (c claim, unclear bool) {
	if status != volume.StatusReserved {
		return claim{}, false
	}
	began := slices.DeleteFunc(slices.Clone(all), func(c claim) bool {
		return c.attachment != "" || !c.live() && c.instance != instanceID
	})
	if instanceID != "" && !slices.ContainsFunc(began, func(c claim) bool { return c.instance == instanceID }) {
		return claim{}, false
	}
	if len(began) == 1 {
		return began[0], false
	}
	return claim{}, len(began) > 1 && slices.ContainsFunc(began, func(c claim) bool { return time.Since(c.since) < noteLife })
}
