package state

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
)

// upgrade reads a record of version 1: what it said in eleven fields is a phase, what
// is wanted, and a pending operation.
func upgrade(data []byte) (Record, error) {
	var old struct {
		Record
		Host       string       `json:"host"`
		IDBase     uint32       `json:"idmap_base"`
		Slot       uint32       `json:"idmap_slot"`
		StoreID    string       `json:"volume_store"`
		Volumes    []oldVolume  `json:"volumes"`
		Operation  oldOperation `json:"operation"`
		Fault      string       `json:"fault"`
		Booted     bool         `json:"booted"`
		Started    bool         `json:"started"`
		RolledBack bool         `json:"rolled_back"`
		Up         bool         `json:"up"`
		Undefined  bool         `json:"undefined"`
	}
	if err := json.Unmarshal(data, &old); err != nil {
		return Record{}, err
	}
	r := old.Record
	r.Version = Version
	r.Host = host.Host{Name: old.Host} // its id was not known
	if !r.Spec.Privileged {
		r.IDs = host.IDRange{First: old.IDBase + old.Slot*IDsPerInstance, Count: IDsPerInstance}
	}
	r.Ran = old.Started && !old.RolledBack
	r.Want = Down
	if old.Up {
		r.Want = Up
	}
	switch {
	case old.Operation.Name == OpDelete, old.RolledBack:
		r.Phase = Deleting
	case old.Booted:
		r.Phase = Built
	default:
		r.Phase = Building
	}
	name := old.Operation.Name
	switch {
	case name == "" && old.Undefined:
		name = OpRename
	case name == "" && old.Fault != "" && r.Phase == Built:
		name = OpStop // what is left goes with it
	case name == "" && old.Fault != "":
		name = OpDelete
	}
	if name != "" {
		r.Op = &Operation{Name: name, PID: old.Operation.PID, At: old.Operation.At, Error: old.Fault}
	}
	r.Volumes = nil
	for _, v := range old.Volumes {
		v.Store = old.StoreID
		if v.Moving && (name == OpAttach || name == OpDetach) {
			r.Op.Volume = v.VolumeID
		}
		if v.Formatted && v.Filesystem == nil {
			v.Filesystem = &rootfs.Filesystem{Type: cmp.Or(v.Mapping.GuestFormat, "ext4")}
		}
		r.Volumes = append(r.Volumes, v.Volume)
	}
	return r, nil
}

type oldVolume struct {
	Volume
	Moving    bool `json:"moving"`
	Formatted bool `json:"formatted"`
}

type oldOperation struct {
	Name string    `json:"name"`
	PID  int       `json:"pid"`
	At   time.Time `json:"at"`
}
