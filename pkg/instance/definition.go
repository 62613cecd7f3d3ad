package instance

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Definition is what an instance is booted from on another host: what was asked for, and
// nothing that belongs to the host which it comes from. Its volumes are named by their ids.
type Definition struct {
	Name   string `json:"name"`
	Flavor string `json:"flavor"`
	// BlockDevices are objects as --block-device takes them in JSON.
	BlockDevices []json.RawMessage `json:"block_devices"`
	NICs         []string          `json:"nics"`               // as --nic takes them
	Hostname     string            `json:"hostname,omitempty"` // empty: by the name
	Description  string            `json:"description,omitempty"`
	Tags         []string          `json:"tags,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Init         string            `json:"init,omitempty"`
	InitArgs     []string          `json:"init_args,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	Privileged   bool              `json:"privileged,omitempty"`
	Fsck         bool              `json:"fsck,omitempty"`
	Restart      string            `json:"restart,omitempty"` // as state.ParseRestart reads it
	Grow         state.Growth      `json:"grow,omitempty"`
	ConfigDrive  *bool             `json:"config_drive,omitempty"` // false: the root is left as it is
}

// DefinitionOf is the definition of an instance. One that is not whole, and one whose root
// is a disk of its host alone, has none, with state.ErrState.
func DefinitionOf(r *state.Record) (Definition, error) {
	root := r.Root()
	switch {
	case r.Phase != state.Built || root == nil:
		return Definition{}, failure.Of(state.ErrState, "instance %q is not whole: its boot or its delete was interrupted, or is under way", r.Name)
	case root.Mapping.Dest == bdm.DestLocal:
		return Definition{}, failure.Of(state.ErrState, "the root of instance %q is a disk that goes with it, which no other host can boot: 'lxcboot image create IMAGE --instance %[1]s' makes an image of it", r.Name)
	}
	s := &r.Spec
	d := Definition{
		Name: r.Name, Flavor: s.Flavor.Name, NICs: []string{}, Description: s.Description, Tags: s.Tags, Metadata: r.Meta,
		Init: s.Init, InitArgs: s.InitArgs, Env: s.Env, Privileged: s.Privileged, Fsck: s.Fsck, Grow: s.Grow,
	}
	if s.Restart.When != "" {
		d.Restart = s.Restart.String()
	}
	if s.Hostname != hostnameFor(r.Name) {
		d.Hostname = s.Hostname
	}
	if s.Seed.Bare {
		d.ConfigDrive = new(false)
	}
	for _, n := range s.NICs {
		d.NICs = append(d.NICs, n.Words())
	}
	if len(s.NICs) == 0 {
		d.NICs = []string{"none"}
	}
	var devices []bdm.Mapping
	for i := range r.Volumes {
		if !r.Volumes[i].Mapping.Upper {
			devices = append(devices, travelling(&r.Volumes[i]))
		}
	}
	if s.SwapMiB > 0 {
		devices = append(devices, bdm.Mapping{Source: bdm.SourceBlank, Dest: bdm.DestLocal, GuestFormat: bdm.FormatSwap, Size: s.SwapMiB, DeleteOnTermination: true})
	}
	for _, mp := range devices {
		text, err := json.Marshal(mp)
		if err != nil {
			return Definition{}, err
		}
		d.BlockDevices = append(d.BlockDevices, text)
	}
	return d, nil
}

// travelling is the mapping by which another host has the same device. What the boot made
// a volume of is left out: the volume is there now. A local disk is made anew, and empty.
func travelling(v *state.Volume) bdm.Mapping {
	mp := v.Mapping
	mp.Grow, mp.DeviceType, mp.DiskBus = false, "", ""
	if mp.Dest == bdm.DestVolume {
		mp.Source, mp.ID, mp.Size, mp.GuestFormat, mp.VolumeType = bdm.SourceVolume, v.VolumeID, 0, "", ""
	}
	return mp
}

// ParseDefinition reads a Definition. A key that is not known, or that is given twice, is
// refused by its name, with failure.ErrInvalid; a null counts as absent.
func ParseDefinition(data []byte) (Definition, error) {
	var d Definition
	var privileged, fsck *bool
	keys := map[string]any{
		"name": &d.Name, "flavor": &d.Flavor, "block_devices": &d.BlockDevices, "nics": &d.NICs, "hostname": &d.Hostname,
		"description": &d.Description, "tags": &d.Tags, "metadata": &d.Metadata, "init": &d.Init, "init_args": &d.InitArgs,
		"env": &d.Env, "privileged": &privileged, "fsck": &fsck, "restart": &d.Restart, "grow": &d.Grow, "config_drive": &d.ConfigDrive,
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	broken := func(err error) (Definition, error) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return d, failure.Invalid("it is not valid JSON: %v", err)
	}
	switch start, err := dec.Token(); {
	case err != nil:
		return broken(err)
	case start != json.Delim('{'):
		return d, failure.Invalid("it is no JSON object, as 'lxcboot show --definition' prints it")
	}
	given := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return broken(err)
		}
		key, _ := token.(string) // the decoder itself lets nothing else be a key
		field, known := keys[key]
		switch {
		case !known:
			return d, failure.Invalid("unknown key %q; the keys are %s", key, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		case given[key]:
			return d, failure.Invalid("the key %q is given twice", key)
		}
		given[key] = true
		if err := dec.Decode(field); err != nil {
			if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				return d, failure.Invalid("the value of key %q is %s, and has to be %s", key, kind.Value, jsonKind(field))
			}
			return broken(err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return broken(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return d, failure.Invalid("there is more after its JSON object")
	}
	for key, m := range map[string]map[string]string{"metadata": d.Metadata, "env": d.Env} {
		for k := range m {
			if k == "" || strings.Contains(k, "=") {
				return d, failure.Invalid("the name %q in the value of key %q is empty, or has a '='", k, key)
			}
		}
	}
	d.Privileged, d.Fsck = privileged != nil && *privileged, fsck != nil && *fsck
	switch d.Grow {
	case "", state.GrowAll, state.GrowNone:
	default:
		return d, failure.Invalid("the value %q of key \"grow\" is neither %q nor %q", d.Grow, state.GrowAll, state.GrowNone)
	}
	return d, nil
}

// jsonKind is in words what a value is read into.
func jsonKind(field any) string {
	switch field.(type) {
	case **bool:
		return "true or false"
	case *[]string:
		return "a list of texts"
	case *map[string]string:
		return "an object of texts"
	case *[]json.RawMessage:
		return "a list of objects, as --block-device takes them"
	}
	return "a text"
}
