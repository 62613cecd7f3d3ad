package openstack

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Who holds a volume is kept in the volume's metadata, one entry per instance:
//
//	lxcboot_attached_INSTANCE = reserving since TIME
//	lxcboot_attached_INSTANCE = ATTACHMENT
//	lxcboot_attached_INSTANCE = ATTACHMENT on HOST
//
// Cinder's own field for it, instance_uuid, is meant for Nova: Cinder asks Nova
// before it lets a user delete such an attachment once it is connected. And the
// host is shown to administrators only. The claim decides nothing: that only one
// gets the volume is Cinder's doing.
const claimPrefix = "lxcboot_attached_"

// claimLife is how long a reservation can be under way. A claim that has been
// "reserving" for longer was left by a crash.
const claimLife = 15 * time.Minute

// claim is one entry.
type claim struct {
	instance   string
	attachment string    // empty while reserving
	host       string    // empty until connected
	since      time.Time // while reserving
}

// reserving is the claim of an instance that is about to reserve a volume.
func reserving(instance string) claim { return claim{instance: instance, since: time.Now().UTC()} }

func (c claim) value() string {
	switch {
	case c.attachment == "":
		return "reserving since " + c.since.Format(time.RFC3339)
	case c.host == "":
		return c.attachment
	}
	return c.attachment + " on " + c.host
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
			c.attachment, c.host, _ = strings.Cut(value, " on ")
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

// setClaim writes an entry.
func (s *Store) setClaim(ctx context.Context, volumeID string, c claim) error {
	return call(ctx, s, "cinder", fmt.Sprintf("noting on volume %s that instance %s holds it", volumeID, c.instance), func(error) error {
		return s.post(ctx, s.cinder.ServiceURL("volumes", volumeID, "metadata"),
			map[string]any{"metadata": map[string]string{claimPrefix + c.instance: c.value()}})
	})
}

// dropClaim removes an entry; one that is not there is done.
func (s *Store) dropClaim(ctx context.Context, volumeID, instanceID string) error {
	return call(ctx, s, "cinder", fmt.Sprintf("noting on volume %s that instance %s holds it no longer", volumeID, instanceID), func(error) error {
		resp, err := s.cinder.Delete(ctx, s.cinder.ServiceURL("volumes", volumeID, "metadata", claimPrefix+instanceID),
			&gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusNotFound}})
		_, _, err = gophercloud.ParseResponse(resp, err)
		return err
	})
}

// dropStale removes the entries of a volume that nobody holds but those that have
// just been made.
func (s *Store) dropStale(ctx context.Context, v volume.Volume) error {
	for _, c := range claims(v.Metadata) {
		if !c.live() {
			if err := s.dropClaim(ctx, v.ID, c.instance); err != nil {
				return err
			}
		}
	}
	return nil
}

// nobodys says whether an attachment without a name on it may be taken for that
// of the instance: when the instance began to reserve, and nobody else can have
// made it. An attachment that was ever connected always has a name on it.
func nobodys(status, instanceID string, all []claim) bool {
	if status != volume.StatusReserved {
		return false
	}
	mine := slices.ContainsFunc(all, func(c claim) bool { return c.instance == instanceID && c.attachment == "" })
	others := slices.ContainsFunc(all, func(c claim) bool { return c.instance != instanceID && c.live() })
	return mine && !others
}
