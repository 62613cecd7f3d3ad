package cmd

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/seed"
)

// bootOptions is what boot and run are told on the command line.
type bootOptions struct {
	blocks                                 bdm.Request
	keepGoing, dryRun, privileged, fsck    bool
	meta, tags, env, files, nics, initArgs []string
	description, hostname, keyName, sshKey string
	userData, configDrive, init            string
	ignoreUnsupported                      bool
	changed                                func(string) bool
}

// unsupported are the flags of nova boot that have no meaning on one host, and why.
var unsupported = map[string]string{
	"availability-zone":            "there is one host, and no zones",
	"host":                         "there is one host",
	"hypervisor-hostname":          "there is one host",
	"hint":                         "there is no scheduler",
	"security-groups":              "filter on the bridge of the network instead",
	"admin-pass":                   "give keys with --ssh-key, or a password hash in --user-data",
	"access-ip-v4":                 "give an address with --nic …,v4-fixed-ip=",
	"access-ip-v6":                 "there is no place where it would be kept",
	"trusted-image-certificate-id": "Nova refuses it too for a boot from a volume",
	"return-reservation-id":        "boot returns when the instance runs; take its id with -f value -c id",
}

func (a *App) bootFlags(c *cobra.Command, o *bootOptions) {
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.blocks.Flavor, "flavor", "", "name or id of the flavor")
	repeated(f, &o.blocks.BlockDevices, "block-device", "key=value,… of a device, or a JSON file (can be repeated)")
	f.StringVar(&o.blocks.Image, "image", "", "image to boot from a local disk of the flavor's size")
	repeated(f, &o.blocks.ImageWith, "image-with", "KEY=VALUE that the image to boot has (can be repeated)")
	f.StringVar(&o.blocks.BootVolume, "boot-volume", "", "volume to boot from")
	f.StringVar(&o.blocks.Snapshot, "snapshot", "", "snapshot to boot from, by a volume made of it")
	f.StringVar(&o.blocks.BootFromVolume, "boot-from-volume", "", "size in GiB of a volume to make of --image and boot from")
	f.BoolVar(&o.blocks.DeleteOnTermination, "delete-on-termination", false, "delete the volume of --boot-from-volume with the instance")
	repeated(f, &o.blocks.Legacy, "block-device-mapping", "DEVICE=ID[:TYPE[:SIZE[:DELETE]]], the old form (can be repeated)")
	repeated(f, &o.blocks.Ephemerals, "ephemeral", "size=GIB[,format=FS][,mount=/PATH] (can be repeated)")
	f.StringVar(&o.blocks.Swap, "swap", "", "swap in MiB, as a limit beyond the memory's")
	f.StringVar(&o.blocks.MinCount, "min-count", "", "boot at least so many, NAME-1, NAME-2, …")
	f.StringVar(&o.blocks.MaxCount, "max-count", "", "boot at most so many (default: min-count)")
	f.BoolVar(&o.keepGoing, "keep-going", false, "keep what booted when another one fails")
	repeated(f, &o.nics, "nic", "none, auto, bridge=B, net-name=N or net-id=ID, with ,mac=M ,v4-fixed-ip=A and ,gateway=G (can be repeated)")
	f.StringVar(&o.hostname, "hostname", "", "host name, also written into the root")
	repeated(f, &o.meta, "meta", "KEY=VALUE to keep with the instance (can be repeated)")
	f.StringVar(&o.description, "description", "", "description of the instance")
	repeated(f, &o.tags, "tags", "tags of the instance, with commas between (can be repeated)")
	f.StringVar(&o.keyName, "key-name", os.Getenv("NOVACLIENT_DEFAULT_KEY_NAME"), "ssh key of STATE/keypairs/NAME.pub for root")
	f.StringVar(&o.sshKey, "ssh-key", "", "file of ssh public keys for root")
	f.StringVar(&o.userData, "user-data", "", "file for cloud-init")
	f.StringVar(&o.configDrive, "config-drive", "", "true: write cloud-init's seed in any case")
	repeated(f, &o.files, "file", "DST=SRC, a file to write into the root (can be repeated)")
	f.StringVar(&o.init, "init", "", "program to start in the container (default: the root's init)")
	repeated(f, &o.initArgs, "init-arg", "argument of the init (can be repeated)")
	repeated(f, &o.env, "env", "KEY=VALUE for the init (can be repeated)")
	f.BoolVar(&o.privileged, "privileged", false, "no user namespace: root in the container is root of the host")
	f.BoolVar(&o.fsck, "fsck", false, "check the filesystems of the root and of mounted volumes, read-only, before they are first mounted")
	f.BoolVar(&o.dryRun, "dry-run", false, "check everything, print the plan and change nothing")
	f.Bool("poll", false, "accepted: boot always waits until the instance runs")
	f.BoolVar(&o.ignoreUnsupported, "ignore-unsupported", false, "pass over flags of nova boot that have no meaning on one host")
	for name := range unsupported {
		if name == "return-reservation-id" {
			f.Bool(name, false, "")
		} else {
			f.Var(new(list), name, "")
		}
		_ = f.MarkHidden(name)
	}
	o.changed = f.Changed
	for flag, list := range map[string]func(context.Context) ([]string, error){"flavor": a.flavorNames, "image": a.imageNames, "boot-volume": a.volumeNames, "snapshot": a.snapshotNames} {
		_ = c.RegisterFlagCompletionFunc(flag, a.completer(list, true))
	}
	_ = c.RegisterFlagCompletionFunc("key-name", a.completer(a.keyNames, true))
	_ = c.RegisterFlagCompletionFunc("config-drive", cobra.FixedCompletions([]string{"true", "false"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("block-device", a.completeSpec)
}

// keyNames are the keys that --key-name finds.
func (a *App) keyNames(context.Context) (names []string, err error) {
	files, err := filepath.Glob(filepath.Join(a.settings.StateDir, "keypairs", "*.pub"))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".pub"))
	}
	return names, err
}

// completeSpec completes the keys of a block device, the values of those that have a
// few, and the id of its source.
func (a *App) completeSpec(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	done, last := "", typed
	if i := strings.LastIndexByte(typed, ','); i >= 0 {
		done, last = typed[:i+1], typed[i+1:]
	}
	if key, _, ok := strings.Cut(last, "="); ok && (key == "id" || key == "uuid") {
		for source, list := range map[string]func(context.Context) ([]string, error){"image": a.imageNames, "volume": a.volumeNames, "snapshot": a.snapshotNames} {
			if strings.Contains(","+done, ",source="+source+",") || strings.Contains(","+done, ",source_type="+source+",") {
				names, how := a.completer(list, true)(c, nil, "")
				for i := range names {
					names[i] = done + key + "=" + names[i]
				}
				return names, how
			}
		}
	}
	var all []string
	for _, k := range bdm.Keys() {
		if strings.Contains(","+done, ","+k.Name+"=") {
			continue
		}
		if key, _, ok := strings.Cut(last, "="); ok && key == k.Name {
			for _, v := range k.Values {
				all = append(all, done+k.Name+"="+v)
			}
		} else if !ok {
			all = append(all, done+k.Name+"=\t"+k.Help)
		}
	}
	return all, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// bootRequest reads the flags, in nova boot's order.
func (a *App) bootRequest(ctx context.Context, o *bootOptions, name string) (instance.BootRequest, error) {
	var req instance.BootRequest
	for _, flag := range slices.Sorted(maps.Keys(unsupported)) {
		if o.changed(flag) && !o.ignoreUnsupported {
			return req, usagef("--%s has no meaning here: %s; --ignore-unsupported passes over it", flag, unsupported[flag])
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
			return req, usagef("--env: %q is not the name of a variable", key)
		}
	}
	if s.Seed, err = a.seed(ctx, o); err != nil {
		return req, err
	}
	if s.Tags, err = instanceTags(o.tags); err != nil {
		return req, err
	}
	s.Hostname, s.Description = o.hostname, o.description
	s.Init, s.InitArgs, s.Privileged, s.Fsck = o.init, o.initArgs, o.privileged, o.fsck
	req.Blocks = o.blocks
	if req.Blocks.Files, err = jsonFiles(ctx, o.blocks.BlockDevices); err != nil {
		return req, err
	}
	if s.NICs, err = a.interfaces(ctx, o.nics); err != nil {
		return req, err
	}
	return req, checkInterfaces(s.NICs, count)
}

// checkInterfaces refuses what two cards cannot have both, of one instance or of
// several that are booted alike.
func checkInterfaces(nics []lxc.Interface, count int) error {
	for i, n := range nics {
		switch {
		case count > 1 && n.MAC != "":
			return usagef("--nic mac=%s is the address of one card, and %d instances are asked for; leave mac out", n.MAC, count)
		case count > 1 && len(n.Addresses) > 0:
			return usagef("--nic v4-fixed-ip=%s is the address of one instance, and %d are asked for; leave v4-fixed-ip out", n.Addresses[0], count)
		}
		for _, other := range nics[:i] {
			switch {
			case n.MAC != "" && n.MAC == other.MAC:
				return usagef("the mac %s is given twice; each --nic needs one of its own", n.MAC)
			case n.Gateway != "" && other.Gateway != "":
				return usagef("the gateways %s and %s are given, and there is one default route; leave one out", other.Gateway, n.Gateway)
			}
		}
	}
	return nil
}

var validEnv = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// instanceTags reads --tags by Nova's rules for them.
func instanceTags(given []string) ([]string, error) {
	const most = 50
	tags := []string{}
	for _, text := range given {
		for tag := range strings.SplitSeq(text, ",") {
			switch {
			case !bdm.ValidTag(tag):
				return nil, usagef("--tags %q: a tag has 1 to 60 characters, and no '/'; %q is none", text, tag)
			case slices.Contains(tags, tag):
				return nil, usagef("--tags %q: the tag %q is given twice", text, tag)
			}
			tags = append(tags, tag)
		}
	}
	if len(tags) > most {
		return nil, usagef("--tags: %d tags are given, and an instance has at most %d", len(tags), most)
	}
	return tags, nil
}

// seed reads what is to be written into the root.
func (a *App) seed(ctx context.Context, o *bootOptions) (seed.Seed, error) {
	s := seed.Seed{Hostname: o.hostname}
	flag, keyFile := "--ssh-key", o.sshKey
	switch {
	case o.sshKey != "" && o.changed("key-name") && o.keyName != "":
		return s, usagef("--key-name and --ssh-key both say what the key is; give one of them")
	case o.sshKey == "" && strings.ContainsAny(o.keyName, "/\x00"):
		return s, usagef("--key-name %q is not the name of a key; --ssh-key takes a file", o.keyName)
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
	case "", "false", "0", "none":
	default:
		return s, usagef("The value of the '--config-drive' option must be a boolean value. It is %q; say true or false", o.configDrive)
	}
	for _, f := range o.files {
		dst, src, ok := strings.Cut(f, "=")
		if !ok {
			return s, usagef("--file %q is not in the form DST=SRC", f)
		}
		data, mode, err := readInput(ctx, src, maxFile)
		if err != nil {
			return s, inputError("--file "+f, err)
		}
		s.Files = append(s.Files, seed.File{Path: dst, Data: data, Mode: uint32(mode)})
	}
	return s, s.Check()
}

// interfaces reads --nic. Without one it is auto: libvirt's default network where
// that is active, and none otherwise.
func (a *App) interfaces(ctx context.Context, nics []string) ([]lxc.Interface, error) {
	if len(nics) == 0 {
		nics = []string{"auto"}
	}
	var all []lxc.Interface
	for _, text := range nics {
		if text == "none" || text == "auto" {
			if len(nics) > 1 {
				return nil, usagef("--nic %s cannot be combined with other --nic", text)
			}
			if text == "none" || needRoot() != nil {
				return nil, nil
			}
			d, err := a.openDomains(ctx)
			if err != nil {
				return nil, err
			}
			if n, err := d.Network(ctx, "default"); err == nil && n.Active {
				return []lxc.Interface{{Network: "default"}}, nil
			}
			return nil, nil
		}
		nic, err := a.nic(ctx, text)
		if err != nil {
			return nil, err
		}
		all = append(all, nic)
	}
	return all, nil
}

func (a *App) nic(ctx context.Context, text string) (lxc.Interface, error) {
	var n lxc.Interface
	var netRef string
	var prefix netip.Prefix
	var err error
	fail := func(format string, args ...any) (lxc.Interface, error) {
		return n, usagef("--nic %q: %s", text, fmt.Sprintf(format, args...))
	}
	var seen []string
	for piece := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(piece, "=")
		if !ok || value == "" {
			return fail("%q is not a key=value pair; the keys are bridge, net-name, net-id, mac, v4-fixed-ip, gateway; or say none or auto", piece)
		}
		if slices.Contains(seen, key) {
			return fail("the key %q is given twice", key)
		}
		seen = append(seen, key)
		switch key {
		case "bridge":
			if _, err := os.Stat(filepath.Join("/sys/class/net", value, "bridge")); err != nil || value != filepath.Base(value) {
				return fail("this host has no bridge %q (see: ip link show type bridge)", value)
			}
			n.Bridge = value
		case "net-name", "net-id":
			if netRef != "" {
				return fail("net-name and net-id name the same thing; give one")
			}
			netRef = value
		case "mac":
			mac, err := net.ParseMAC(value)
			if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
				return fail("the mac %q is not the address of one card", value)
			}
			n.MAC = mac.String()
		case "v4-fixed-ip":
			cidr := value
			if !strings.Contains(cidr, "/") {
				cidr += "/24"
			}
			if prefix, err = netip.ParsePrefix(cidr); err != nil || !prefix.Addr().Is4() {
				return fail("the address %q is not one of IPv4, with or without a prefix", value)
			}
			n.Addresses = []string{prefix.String()}
		case "gateway":
			if addr, err := netip.ParseAddr(value); err != nil || !addr.Is4() {
				return fail("the gateway %q is not an IPv4 address", value)
			}
			n.Gateway = value
		case "port-id", "v6-fixed-ip", "tag":
			return fail("the key %q belongs to a cloud's network service, which is not used here", key)
		default:
			return fail("unknown key %q; the keys are bridge, net-name, net-id, mac, v4-fixed-ip, gateway", key)
		}
	}
	if n.Gateway != "" {
		gateway := netip.MustParseAddr(n.Gateway)
		switch {
		case !prefix.IsValid():
			return fail("the gateway is a route of the container's address; give that too, as v4-fixed-ip=ADDRESS/PREFIX")
		case !prefix.Contains(gateway) || gateway == prefix.Addr():
			return fail("the gateway %q is not another address in the container's network %s", n.Gateway, prefix.Masked())
		}
	}
	if (n.Bridge == "") == (netRef == "") {
		return fail("it needs one of bridge, net-name and net-id")
	}
	if netRef != "" {
		d, err := a.openDomains(ctx)
		if err != nil {
			return n, err
		}
		network, err := d.Network(ctx, netRef)
		if err != nil {
			return n, err
		}
		if !network.Active {
			return fail("libvirt's network %q is not active (virsh net-start %s)", network.Name, network.Name)
		}
		n.Network = network.Name
	}
	return n, nil
}
