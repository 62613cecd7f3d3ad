package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/connector"
)

// Holding is what one host has of a volume, as the volume's store shows it.
type Holding struct {
	Volume      volume.Volume
	Host        host.Host // without a name where the claim has none
	Attachments []volume.Attachment
	// Over says that all of it is of an earlier start of this host: nothing can use the
	// volume by it any more.
	Over bool
	// shared says that others have the volume too, whose users its storage cannot tell from
	// that host's.
	shared bool
}

// Release takes a volume from a host that is known to be gone, by the name or the id of
// that: its attachments are deleted, and what is noted of them. ask is asked before, unless
// nothing can use the volume any more; nil: nobody is. A volume that nobody holds is no
// error. What another host or program holds is volume.ErrInUse, and what may be used here
// state.ErrState.
func (m *Manager) Release(ctx context.Context, ref, hostRef string, ask func(Holding) error) (Holding, error) {
	h, err := m.holding(ctx, ref, hostRef)
	if err != nil || len(h.Attachments) == 0 {
		return h, err
	}
	if ask != nil && !h.Over {
		if err := ask(h); err != nil {
			return h, err
		}
		// The answer may have taken its time, and the host may have come back.
		asked := h.Attachments
		if h, err = m.holding(ctx, h.Volume.ID, hostRef); err != nil {
			return h, err
		}
		for _, a := range h.Attachments {
			if !slices.ContainsFunc(asked, func(b volume.Attachment) bool { return a.ID == b.ID && a.BootID == b.BootID }) {
				return h, fmt.Errorf("the host %q took it anew meanwhile: %w", hostRef, volume.InUse(h.Volume))
			}
		}
	}
	if !h.Over && !h.shared {
		m.fence(ctx, h)
	}
	for _, a := range h.Attachments {
		if err := ignore(m.Volumes.Detach(ctx, a.ID), volume.ErrNotFound); err != nil {
			return h, fmt.Errorf("volume %s is left attached (attachment %s): %w", h.Volume.ID, a.ID, err)
		}
	}
	return h, nil
}

// fence has the volume's storage keep out who has it open. Where that cannot be had, who
// fenced the host has to have done so.
func (m *Manager) fence(ctx context.Context, h Holding) {
	store, ok := m.Volumes.(Reaching)
	if !ok {
		return
	}
	for _, a := range h.Attachments {
		conn, err := store.ConnectionOf(ctx, a.ID)
		if err == nil && conn.Driver != "" {
			_, err = m.Devices.Fence(ctx, connector.Request{AttachmentID: a.ID, VolumeID: a.VolumeID, Connection: conn})
		}
		if ignore(err, volume.ErrNotFound) != nil {
			m.warn("what still has volume %s open was not kept from it by its storage, so that host must be off: %v", a.VolumeID, err)
		}
	}
}

// holding finds what a host has of a volume, and refuses what is not to be taken from it.
func (m *Manager) holding(ctx context.Context, ref, hostRef string) (Holding, error) {
	vol, err := m.Volumes.Volume(ctx, ref)
	if err != nil {
		return Holding{}, err
	}
	h := Holding{Volume: vol}
	all, err := m.Volumes.AttachmentsOf(ctx, vol.ID, "")
	if err != nil {
		return h, err
	}
	var others []volume.Attachment
	for _, a := range all {
		if a.InstanceID != "" && (a.HostID == hostRef || a.Host == hostRef) {
			h.Attachments = append(h.Attachments, a)
		} else {
			others = append(others, a)
		}
	}
	switch {
	case len(h.Attachments) == 0 && len(all) == 0 && !vol.Held():
		return h, nil
	case len(h.Attachments) == 0, len(others) > 0 && !vol.Multiattach:
		vol.Attachments = others
		return h, fmt.Errorf("not all of it is the host %q's: %w", hostRef, volume.InUse(vol))
	}
	if err := m.oneHost(ctx, hostRef, h.Attachments); err != nil {
		return h, err
	}
	h.Over, h.shared = true, len(others) > 0
	for _, a := range h.Attachments {
		h.Host.ID, h.Host.Name = a.HostID, a.Host
		over := m.Earlier(a)
		h.Over = h.Over && over
		if err := m.notHere(ctx, a, over); err != nil {
			return h, err
		}
	}
	return h, nil
}

// oneHost refuses a name that several hosts have, as far as volumes show it: attachments
// are to be taken from the one that is gone.
func (m *Manager) oneHost(ctx context.Context, hostRef string, found []volume.Attachment) error {
	ids := map[string]bool{}
	named := false // not by the id
	for _, a := range found {
		ids[a.HostID] = true
		named = named || a.HostID != hostRef
	}
	if named {
		if m.Host.Name == hostRef {
			ids[m.Host.ID] = true
		}
		all, err := m.Volumes.Volumes(ctx)
		if err != nil && all == nil {
			return err
		}
		for _, v := range all {
			for _, a := range v.Attachments {
				if a.Host == hostRef && a.HostID != "" {
					ids[a.HostID] = true
				}
			}
		}
	}
	if len(ids) < 2 {
		return nil
	}
	var list []string
	for id := range ids {
		if id == "" {
			id = "(one of an older lxcboot, without an id)"
		}
		list = append(list, id)
	}
	slices.Sort(list)
	return failure.Of(volume.ErrAmbiguous, "the host name %q is that of %d hosts: %s; give the id of the one that is gone", hostRef, len(ids), strings.Join(list, ", "))
}

// Here says that an attachment is this host's. Where the name is another one, the id may be
// that of a copy of this machine.
func (m *Manager) Here(a volume.Attachment) bool {
	return !a.Elsewhere(m.Host) && (a.Host == "" || a.Host == m.Host.Name)
}

// Earlier says that an attachment is of an earlier start of this host.
func (m *Manager) Earlier(a volume.Attachment) bool {
	return a.HostID == m.Host.ID && m.Here(a) && a.BootID != "" && a.BootID != m.Host.BootID
}

// orReleased adds to the refusal of volumes that are in use how one is taken from a host that
// is gone.
func (m *Manager) orReleased(err error, volumes map[string]volume.Volume) error {
	if !errors.Is(err, volume.ErrInUse) {
		return err
	}
	for _, v := range volumes {
		for _, a := range v.Attachments {
			on := a.Host
			if on == "" || a.HostID != "" && strings.ContainsFunc(on, needsQuotes) {
				on = a.HostID
			}
			switch {
			case v.Multiattach || a.InstanceID == "" || on == "":
			case m.Earlier(a):
				return fmt.Errorf("%w That was before this host was last started: 'lxcboot volume release %s --host %s' lets go of it", err, v.ID, on)
			case !m.Here(a):
				return fmt.Errorf("%w If that host is gone for good, 'lxcboot volume release %s --host %s' takes it from there", err, v.ID, on)
			}
		}
	}
	return err
}

// needsQuotes says of what a shell would not leave as it is.
func needsQuotes(r rune) bool {
	return r != '.' && r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}

// notHere refuses an attachment whose instance this host has, or sees to run.
func (m *Manager) notHere(ctx context.Context, a volume.Attachment, over bool) error {
	rec, err := m.Store.Find(a.InstanceID)
	switch {
	case errors.Is(err, state.ErrNotFound):
	case err != nil:
		return err
	case m.mine(&rec):
		return failure.Of(state.ErrState, "volume %s is that of instance %q, which this host has: delete that, or detach the volume from it", a.VolumeID, rec.Name)
	case m.Store.Claimed(rec.ID):
		return failure.Of(state.ErrState, "volume %s is that of instance %q, which runs on the host %s", a.VolumeID, rec.Name, rec.Host.Name)
	}
	if over || a.Elsewhere(m.Host) {
		return nil
	}
	// Its record may be in another state directory, or be lost.
	_, err = m.Domains.State(ctx, a.InstanceID)
	if errors.Is(err, lxc.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return failure.Of(state.ErrState, "volume %s is that of instance %s, which libvirt has on this host: delete it with the state directory that it was booted with", a.VolumeID, a.InstanceID)
}
