package cmd

import (
	"context"
	"fmt"
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
	keepGoing, dryRun, privileged          bool
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
	f.StringArrayVar(&o.blocks.BlockDevices, "block-device", nil, "key=value,… of a device, or a JSON file (can be repeated)")
	f.StringVar(&o.blocks.Image, "image", "", "image to boot from a local disk of the flavor's size")
	f.StringArrayVar(&o.blocks.ImageWith, "image-with", nil, "KEY=VALUE that the image to boot has (can be repeated)")
	f.StringVar(&o.blocks.BootVolume, "boot-volume", "", "volume to boot from")
	f.StringVar(&o.blocks.Snapshot, "snapshot", "", "snapshot to boot from, by a volume made of it")
	f.StringVar(&o.blocks.BootFromVolume, "boot-from-volume", "", "size in GiB of a volume to make of --image and boot from")
	f.BoolVar(&o.blocks.DeleteOnTermination, "delete-on-termination", false, "delete the volume of --boot-from-volume with the instance")
	f.StringArrayVar(&o.blocks.Legacy, "block-device-mapping", nil, "DEVICE=ID[:TYPE[:SIZE[:DELETE]]], the old form (can be repeated)")
	f.StringArrayVar(&o.blocks.Ephemerals, "ephemeral", nil, "size=GIB[,format=FS][,mount=/PATH] (can be repeated)")
	f.StringVar(&o.blocks.Swap, "swap", "", "swap in MiB, as a limit beyond the memory's")
	f.StringVar(&o.blocks.MinCount, "min-count", "", "boot at least so many, NAME-1, NAME-2, …")
	f.StringVar(&o.blocks.MaxCount, "max-count", "", "boot at most so many (default: min-count)")
	f.BoolVar(&o.keepGoing, "keep-going", false, "keep what booted when another one fails")
	f.StringArrayVar(&o.nics, "nic", nil, "none, auto, bridge=B, net-name=N or net-id=ID, with ,mac=M and ,v4-fixed-ip=A (can be repeated)")
	f.StringVar(&o.hostname, "hostname", "", "host name, also written into the root")
	f.StringArrayVar(&o.meta, "meta", nil, "KEY=VALUE to keep with the instance (can be repeated)")
	f.StringVar(&o.description, "description", "", "description of the instance")
	f.StringSliceVar(&o.tags, "tags", nil, "tags of the instance, with commas between")
	f.StringVar(&o.keyName, "key-name", os.Getenv("NOVACLIENT_DEFAULT_KEY_NAME"), "ssh key of STATE/keypairs/NAME.pub for root")
	f.StringVar(&o.sshKey, "ssh-key", "", "file of ssh public keys for root")
	f.StringVar(&o.userData, "user-data", "", "file for cloud-init")
	f.StringVar(&o.configDrive, "config-drive", "", "true: write cloud-init's seed in any case")
	f.StringArrayVar(&o.files, "file", nil, "DST=SRC, a file to write into the root (can be repeated)")
	f.StringVar(&o.init, "init", "", "program to start in the container (default: the root's init)")
	f.StringArrayVar(&o.initArgs, "init-arg", nil, "argument of the init (can be repeated)")
	f.StringArrayVar(&o.env, "env", nil, "KEY=VALUE for the init (can be repeated)")
	f.BoolVar(&o.privileged, "privileged", false, "no user namespace: root in the container is root of the host")
	f.BoolVar(&o.dryRun, "dry-run", false, "check everything, print the plan and change nothing")
	f.Bool("poll", false, "accepted: boot always waits until the instance runs")
	f.BoolVar(&o.ignoreUnsupported, "ignore-unsupported", false, "pass over flags of nova boot that have no meaning on one host")
	for name := range unsupported {
		if name == "return-reservation-id" {
			f.Bool(name, false, "")
		} else {
			f.StringArray(name, nil, "")
		}
		_ = f.MarkHidden(name)
	}
	o.changed = f.Changed
	for flag, list := range map[string]func(context.Context) ([]string, error){"flavor": a.flavorNames, "image": a.imageNames, "boot-volume": a.volumeNames, "snapshot": a.snapshotNames} {
		_ = c.RegisterFlagCompletionFunc(flag, a.completer(list, true))
	}
	_ = c.RegisterFlagCompletionFunc("block-device", completeSpec)
}

// completeSpec completes the keys of a block device, and the values of those that
// have a few.
func completeSpec(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	done, last := "", typed
	if i := strings.LastIndexByte(typed, ','); i >= 0 {
		done, last = typed[:i+1], typed[i+1:]
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
	for flag, why := range unsupported {
		if o.changed(flag) && !o.ignoreUnsupported {
			return req, usagef("--%s has no meaning here: %s; --ignore-unsupported passes over it", flag, why)
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
	if req.Meta, err = keyValues(o.meta); err != nil {
		return req, err
	}
	if s.Env, err = keyValues(o.env); err != nil {
		return req, err
	}
	for key := range s.Env {
		if !validEnv.MatchString(key) {
			return req, usagef("--env: %q is not the name of a variable", key)
		}
	}
	if s.Seed, err = a.seed(o); err != nil {
		return req, err
	}
	s.Hostname, s.Description, s.Tags = o.hostname, o.description, o.tags
	s.Init, s.InitArgs, s.Privileged = o.init, o.initArgs, o.privileged
	req.Blocks = o.blocks
	if req.Blocks.BlockDevices, err = jsonFiles(o.blocks.BlockDevices); err != nil {
		return req, err
	}
	s.NICs, err = a.interfaces(ctx, o.nics)
	return req, err
}

var validEnv = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// seed reads what is to be written into the root.
func (a *App) seed(o *bootOptions) (seed.Seed, error) {
	s := seed.Seed{Hostname: o.hostname}
	keyFile := o.sshKey
	if o.keyName != "" {
		if strings.ContainsAny(o.keyName, "/\x00") || o.sshKey != "" {
			return s, usagef("--key-name %q is not the name of a key, or --ssh-key is given too", o.keyName)
		}
		keyFile = filepath.Join(a.settings.StateDir, "keypairs", o.keyName+".pub")
	}
	if keyFile != "" {
		data, err := os.ReadFile(keyFile)
		if err != nil {
			return s, usagef("cannot read the ssh key: %v", err)
		}
		if s.SSHKeys, err = seed.ParseSSHKeys(data); err != nil {
			return s, fmt.Errorf("%s: %w", keyFile, err)
		}
	}
	if o.userData != "" {
		data, err := os.ReadFile(o.userData)
		if err != nil {
			return s, usagef("Can't open '%s': %v", o.userData, err)
		}
		s.UserData = data
	}
	switch strings.ToLower(o.configDrive) {
	case "true", "1":
		s.NoCloud = true
	case "", "false", "0", "none":
	default:
		return s, usagef("The value of the '--config-drive' option must be a boolean value.")
	}
	for _, f := range o.files {
		dst, src, ok := strings.Cut(f, "=")
		if !ok {
			return s, usagef("--file %q is not in the form DST=SRC", f)
		}
		info, err := os.Stat(src)
		if err != nil {
			return s, usagef("--file %s: %v", f, err)
		}
		data, err := os.ReadFile(src)
		if err != nil {
			return s, usagef("--file %s: %v", f, err)
		}
		s.Files = append(s.Files, seed.File{Path: dst, Data: data, Mode: uint32(info.Mode().Perm())})
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
			if _, err := os.Stat(filepath.Join("/sys/class/net", filepath.Base(value), "bridge")); err != nil {
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
			p, err := netip.ParsePrefix(value)
			if err != nil {
				addr, err := netip.ParseAddr(value)
				if err != nil || !addr.Is4() {
					return fail("the address %q is not one of IPv4, with or without a prefix", value)
				}
				p = netip.PrefixFrom(addr, 24)
			}
			n.Addresses = []string{p.String()}
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
