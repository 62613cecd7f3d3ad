// Package lvm keeps volumes as thin logical volumes, by lvm2's own commands. A logical
// volume is known by its UUID; of those of a volume group, the ones that have the tag Ours
// are meant, and no other is ever changed.
package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Ours is the tag of every logical volume that is made here.
const Ours = "lxcboot"

// ErrFull says that a thin pool has too little room for another volume.
var ErrFull = errors.New("the thin pool is nearly full")

// FullAt is the part of a pool's data or metadata, in percent, from which on nothing is made
// in it: a pool that is full fails the writes of all that is in it.
const FullAt = 90

// Pool is a thin pool.
type Pool struct {
	Group string // the volume group
	Name  string // of the pool in it
	// Run runs a command of lvm2 and gives what it wrote to stdout.
	Run func(ctx context.Context, argv ...string) (string, error)
}

// Named gives a pool by its name, GROUP/POOL.
func Named(name string, run func(ctx context.Context, argv ...string) (string, error)) Pool {
	group, pool, _ := strings.Cut(name, "/")
	return Pool{Group: group, Name: pool, Run: run}
}

// LV is a logical volume in a pool.
type LV struct {
	UUID   string
	Name   string
	Path   string // its node, which is there while it is active
	Size   int64  // bytes
	Tags   []string
	Active bool
}

// Usage is how far a pool is filled.
type Usage struct {
	Size           int64   // bytes
	Data, Metadata float64 // percent
}

// Usage says how far the pool is filled. That there is no such pool is failure.ErrInvalid.
func (p Pool) Usage(ctx context.Context) (Usage, error) {
	if _, err := p.Run(ctx, "vgs", "--noheadings", "--options", "vg_name", p.Group); err != nil {
		return Usage{}, failure.Invalid("there is no volume group %s: make it with vgcreate, or name another (volume-group); %w", p.Group, err)
	}
	all, err := p.report(ctx, p.Group)
	if err != nil {
		return Usage{}, err
	}
	for _, r := range all {
		if r.Name != p.Name {
			continue
		}
		if !slices.Contains(strings.Split(r.Layout, ","), "pool") || !strings.Contains(r.Layout, "thin") {
			break
		}
		var u Usage
		u.Size, err = strconv.ParseInt(r.Size, 10, 64)
		for _, f := range []struct {
			text string
			to   *float64
		}{{r.Data, &u.Data}, {r.Metadata, &u.Metadata}} {
			if err == nil {
				*f.to, err = strconv.ParseFloat(f.text, 64)
			}
		}
		if err != nil {
			return Usage{}, fmt.Errorf("the thin pool %s is not active, or lvs says something else of it (%w): activate it with 'vgchange --activate y %s'", p, err, p.Group)
		}
		return u, nil
	}
	return Usage{}, failure.Invalid("%s is no thin pool, and others would show what was on the disk before: make one with 'lvcreate --type thin-pool --extents 90%%FREE --name %s %s', or name another (thin-pool)", p, p.Name, p.Group)
}

func (p Pool) String() string { return p.Group + "/" + p.Name }

// Room refuses what would be made in a pool that is nearly full.
func (p Pool) Room(ctx context.Context) error {
	u, err := p.Usage(ctx)
	if err != nil {
		return err
	}
	for what, percent := range map[string]float64{"data": u.Data, "metadata": u.Metadata} {
		if percent > FullAt {
			return failure.Of(ErrFull, "%.0f %% of the %s of the thin pool %s is in use, and nothing is made above %d: delete volumes, or make it larger with lvextend", percent, what, p, FullAt)
		}
	}
	return nil
}

// List gives the logical volumes of the pool that are ours.
func (p Pool) List(ctx context.Context) ([]LV, error) {
	all, err := p.report(ctx, p.Group)
	if err != nil {
		return nil, err
	}
	var ours []LV
	for _, r := range all {
		if r.Pool != p.Name || !slices.Contains(strings.Split(r.Tags, ","), Ours) {
			continue
		}
		lv, err := r.lv()
		if err != nil {
			return nil, err
		}
		ours = append(ours, lv)
	}
	return ours, nil
}

// deviceUUID begins the UUID that device-mapper has of a logical volume: those of its group
// and of itself follow, without their hyphens.
const deviceUUID = "LVM-"

// Behind gives the thin volume whose device has this UUID of device-mapper's, and its pool.
// That it is none is volume.ErrNotFound. It need not be ours.
func Behind(ctx context.Context, device string, run func(ctx context.Context, argv ...string) (string, error)) (Pool, LV, error) {
	uuid, is := strings.CutPrefix(device, deviceUUID)
	if !is || len(uuid) != 64 {
		return Pool{}, LV{}, failure.Of(volume.ErrNotFound, "%q is no logical volume", device)
	}
	uuid = uuid[32:]
	parts := []string{uuid[:6]}
	for at := 6; at < 26; at += 4 {
		parts = append(parts, uuid[at:at+4])
	}
	all, err := Pool{Run: run}.report(ctx, "--select", "lv_uuid="+strings.Join(append(parts, uuid[26:]), "-"))
	switch {
	case err != nil:
		return Pool{}, LV{}, err
	case len(all) != 1 || all[0].Pool == "":
		return Pool{}, LV{}, failure.Of(volume.ErrNotFound, "%q is in no thin pool", device)
	}
	lv, err := all[0].lv()
	return Pool{Group: all[0].Group, Name: all[0].Pool, Run: run}, lv, err
}

// Find gives the one that has a tag. Without any the error is volume.ErrNotFound.
func (p Pool) Find(ctx context.Context, tag string) (LV, error) {
	all, err := p.List(ctx)
	if err != nil {
		return LV{}, err
	}
	all = slices.DeleteFunc(all, func(lv LV) bool { return !slices.Contains(lv.Tags, tag) })
	switch len(all) {
	case 0:
		return LV{}, failure.Of(volume.ErrNotFound, "no logical volume of %s has the tag %s", p.Group, tag)
	case 1:
		return all[0], nil
	}
	return LV{}, failure.Of(volume.ErrConflict, "the logical volumes %s and %s of %s both have the tag %s: take it from the one that is not meant, with 'lvchange --deltag'", all[0].Name, all[1].Name, p.Group, tag)
}

// Create makes a logical volume of zeros, which is active. Its size in bytes is rounded up
// to whole extents of the group.
func (p Pool) Create(ctx context.Context, name string, size int64, tags ...string) (LV, error) {
	if err := p.Room(ctx); err != nil {
		return LV{}, err
	}
	argv := []string{"lvcreate", "--type", "thin", "--thinpool", p.String(), "--virtualsize", inBytes(size), "--wipesignatures", "n"}
	return p.make(ctx, argv, name, tags)
}

// Snapshot makes a logical volume with the content that another has at this moment, which is
// not active. What is mounted from that one is complete in it.
func (p Pool) Snapshot(ctx context.Context, of LV, name string, tags ...string) (LV, error) {
	if err := p.Room(ctx); err != nil {
		return LV{}, err
	}
	// As another than its maker might do, it is activated like any.
	argv := []string{"lvcreate", "--snapshot", "--setactivationskip", "n", "--activate", "n"}
	return p.make(ctx, append(argv, p.Group+"/"+of.Name), name, tags)
}

// make makes a logical volume, which has its tags from the beginning, and which the host
// does not activate by itself.
func (p Pool) make(ctx context.Context, argv []string, name string, tags []string) (LV, error) {
	argv = append(argv, "--quiet", "--name", name)
	for _, t := range append([]string{Ours}, tags...) {
		argv = append(argv, "--addtag", t)
	}
	if argv[1] == "--type" {
		argv = append(argv, p.Group)
	}
	if err := p.change(ctx, argv...); err != nil {
		return LV{}, err
	}
	// lvcreate has the option for other kinds only.
	if err := p.change(ctx, "lvchange", "--quiet", "--setautoactivation", "n", p.Group+"/"+name); err != nil {
		return LV{}, err
	}
	all, err := p.List(ctx)
	if err != nil {
		return LV{}, err
	}
	for _, lv := range all {
		if lv.Name == name {
			return lv, nil
		}
	}
	return LV{}, fmt.Errorf("lvcreate made no %s/%s", p.Group, name)
}

// Extend makes one larger, to this many bytes; it may be in use.
func (p Pool) Extend(ctx context.Context, lv LV, size int64) error {
	if err := p.Room(ctx); err != nil {
		return err
	}
	return p.change(ctx, "lvextend", "--quiet", "--size", inBytes(size), p.Group+"/"+lv.Name)
}

// Activate makes its node.
func (p Pool) Activate(ctx context.Context, lv LV) error { return p.activation(ctx, lv, "y") }

// Deactivate takes its node away. One that is in use is an error.
func (p Pool) Deactivate(ctx context.Context, lv LV) error { return p.activation(ctx, lv, "n") }

func (p Pool) activation(ctx context.Context, lv LV, to string) error {
	return p.change(ctx, "lvchange", "--quiet", "--activate", to, p.Group+"/"+lv.Name)
}

// Tag gives one a tag, or takes one away.
func (p Pool) Tag(ctx context.Context, lv LV, add, remove string) error {
	argv := []string{"lvchange", "--quiet"}
	if add != "" {
		argv = append(argv, "--addtag", add)
	}
	if remove != "" {
		argv = append(argv, "--deltag", remove)
	}
	return p.change(ctx, append(argv, p.Group+"/"+lv.Name)...)
}

// Remove removes one, by its UUID and only if it is ours still: a name may be another's by
// now. One that is not there is removed.
func (p Pool) Remove(ctx context.Context, lv LV) error {
	return p.change(ctx, "lvremove", "--quiet", "--yes", "--select", "lv_uuid="+lv.UUID+" && lv_tags={"+Ours+"}", p.Group)
}

// change runs a command that changes something.
func (p Pool) change(ctx context.Context, argv ...string) error {
	_, err := p.Run(ctx, argv...)
	fault.Point("lvm/" + argv[0])
	return err
}

// row is a logical volume in the report of lvs.
type row struct {
	Group    string `json:"vg_name"`
	UUID     string `json:"lv_uuid"`
	Name     string `json:"lv_name"`
	Size     string `json:"lv_size"`
	Tags     string `json:"lv_tags"`
	Pool     string `json:"pool_lv"`
	Active   string `json:"lv_active"`
	Layout   string `json:"lv_layout"`
	Data     string `json:"data_percent"`
	Metadata string `json:"metadata_percent"`
}

func (r row) lv() (LV, error) {
	size, err := strconv.ParseInt(r.Size, 10, 64)
	if err != nil {
		err = fmt.Errorf("lvs says of %s/%s: %w", r.Group, r.Name, err)
	}
	return LV{UUID: r.UUID, Name: r.Name, Path: "/dev/" + r.Group + "/" + r.Name, Size: size, Tags: strings.Split(r.Tags, ","), Active: r.Active == "active"}, err
}

// report is what lvs says of those that are asked for.
func (p Pool) report(ctx context.Context, which ...string) ([]row, error) {
	out, err := p.Run(ctx, append([]string{"lvs", "--reportformat", "json", "--units", "b", "--nosuffix",
		"--options", "vg_name,lv_uuid,lv_name,lv_size,lv_tags,pool_lv,lv_active,lv_layout,data_percent,metadata_percent"}, which...)...)
	if err != nil {
		return nil, err
	}
	var all struct {
		Report []struct {
			LV []row `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("what lvs says cannot be read: %w", err)
	}
	var rows []row
	for _, r := range all.Report {
		rows = append(rows, r.LV...)
	}
	return rows, nil
}

func inBytes(n int64) string { return strconv.FormatInt(n, 10) + "b" }
