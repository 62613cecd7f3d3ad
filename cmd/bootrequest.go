package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/seed"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// bootRequest reads the flags, in nova boot's order.
func (a *App) bootRequest(ctx context.Context, o *bootOptions, name string) (instance.BootRequest, error) {
	var req instance.BootRequest
	for _, flag := range slices.Sorted(maps.Keys(unsupported)) {
		if o.changed(flag) && !o.ignoreUnsupported {
			return req, failure.Invalid("--%s has no meaning here: %s; --ignore-unsupported passes over it", flag, unsupported[flag])
		}
	}
	if err := o.blocks.CheckFlags(); err != nil {
		return req, err
	}
	_, count, err := o.blocks.Counts()
	if err != nil {
		return req, err
	}
	req.Name, req.Count = name, count
	s := &req.Spec
	if s.Flavor, err = a.flavor(o.blocks.Flavor); err != nil {
		return req, err
	}
	if req.Meta, err = keyValues("--meta", o.meta); err != nil {
		return req, err
	}
	if s.Env, err = keyValues("--env", o.env); err != nil {
		return req, err
	}
	for key := range s.Env {
		if !validEnv.MatchString(key) {
			return req, failure.Invalid("--env: %q is not the name of a variable", key)
		}
	}
	if s.Seed, err = a.seed(ctx, o); err != nil {
		return req, err
	}
	if s.Tags, err = instanceTags("--tags", o.tags); err != nil {
		return req, err
	}
	s.Hostname, s.Description = cmp.Or(o.hostname, o.called), o.description
	s.Init, s.InitArgs, s.Privileged, s.Fsck = o.init, o.initArgs, o.privileged, o.fsck
	if s.Restart, err = state.ParseRestart(o.restart); err != nil {
		return req, err
	}
	switch {
	case o.grow && o.noGrow:
		return req, failure.Invalid("--grow and --no-grow exclude each other")
	case o.grow:
		s.Grow = state.GrowAll
	case o.noGrow:
		s.Grow = state.GrowNone
	}
	s.Unfiltered = a.settings.Seccomp == "off"
	req.Blocks = o.blocks
	if req.Blocks.Files, err = jsonFiles(ctx, o.blocks.BlockDevices); err != nil {
		return req, err
	}
	s.NICs, err = a.interfaces(ctx, o.nics, count)
	return req, err
}

var validEnv = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// mostTags is how many tags an instance has at most, as in Nova.
const mostTags = 50

// instanceTags reads tags by Nova's rules for them, and calls them by their flag.
func instanceTags(flag string, given []string) ([]string, error) {
	tags := []string{}
	for _, text := range given {
		for tag := range strings.SplitSeq(text, ",") {
			switch {
			case !bdm.ValidTag(tag):
				return nil, failure.Invalid("%s %q: a tag has 1 to 60 characters, and no '/'; %q is none", flag, text, tag)
			case slices.Contains(tags, tag):
				return nil, failure.Invalid("%s %q: the tag %q is given twice", flag, text, tag)
			}
			tags = append(tags, tag)
		}
	}
	return addTags(nil, tags)
}

// addTags adds tags to those that an instance has.
func addTags(have, more []string) ([]string, error) {
	tags := slices.Clone(have)
	for _, tag := range more {
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	if len(tags) > mostTags {
		return nil, failure.Invalid("%d tags are too many: an instance has at most %d", len(tags), mostTags)
	}
	return tags, nil
}

// seed reads what is to be written into the root.
func (a *App) seed(ctx context.Context, o *bootOptions) (seed.Seed, error) {
	s := seed.Seed{Hostname: o.hostname, NewIdentity: o.newIdentity}
	flag, keyFile := "--ssh-key", o.sshKey
	switch {
	case o.sshKey != "" && o.changed("key-name") && o.keyName != "":
		return s, failure.Invalid("--key-name and --ssh-key both say what the key is; give one of them")
	case o.sshKey == "" && strings.ContainsAny(o.keyName, "/\x00"):
		return s, failure.Invalid("--key-name %q is not the name of a key; --ssh-key takes a file", o.keyName)
	case o.sshKey == "" && o.keyName != "": // typed, or of the environment
		flag, keyFile = "--key-name "+o.keyName, filepath.Join(a.settings.StateDir, "keypairs", o.keyName+".pub")
	}
	if keyFile != "" {
		data, _, err := readInput(ctx, keyFile, maxKeys)
		if err != nil {
			return s, inputError(flag+": cannot read the ssh key", err)
		}
		if s.SSHKeys, err = seed.ParseSSHKeys(data); err != nil {
			return s, fmt.Errorf("%s %s: %w", flag, keyFile, err)
		}
	}
	if o.userData != "" {
		data, _, err := readInput(ctx, o.userData, seed.MaxUserData)
		if err != nil {
			return s, inputError("--user-data: Can't open '"+o.userData+"'", err)
		}
		s.UserData = data
	}
	switch strings.ToLower(o.configDrive) {
	case "true", "1":
		s.NoCloud = true
	case "false", "0":
		s.Bare = true
	case "", "none":
	default:
		return s, failure.Invalid("The value of the '--config-drive' option must be a boolean value. It is %q; say true or false", o.configDrive)
	}
	for _, f := range o.files {
		dst, src, ok := strings.Cut(f, "=")
		if !ok {
			return s, failure.Invalid("--file %q is not in the form DST=SRC", f)
		}
		data, mode, err := readInput(ctx, src, maxFile)
		if err != nil {
			return s, inputError("--file "+f, err)
		}
		s.Files = append(s.Files, seed.File{Path: dst, Data: data, Mode: uint32(mode)})
	}
	return s, s.Check()
}

// jsonFiles reads the JSON files, as openstack server create takes them, that are
// named in the place of block devices: by their names, as typed. What begins with a
// key of a spec is one, whatever files there are.
func jsonFiles(ctx context.Context, devices []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, d := range devices {
		key, _, pair := strings.Cut(d, "=")
		if d == "" || strings.ContainsAny(d[:1], "{[") || pair && bdm.IsKey(key) {
			continue
		}
		data, _, err := readInput(ctx, d, bdm.MaxJSON)
		switch {
		case err == nil:
			files[d] = data
		case pair: // then it is a spec, and a wrong one
		case errors.Is(err, os.ErrNotExist):
			return nil, failure.Invalid("--block-device %q: Expected a comma-separated list of key=value pairs, or a JSON file. '%s' is not a key=value pair, and there is no such file", d, d)
		default:
			return nil, inputError("--block-device", err)
		}
	}
	return files, nil
}
