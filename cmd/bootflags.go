package cmd

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
)

// bootOptions is what boot and run are told on the command line.
type bootOptions struct {
	blocks                                 bdm.Request
	keepGoing, dryRun, privileged, fsck    bool
	newIdentity                            bool
	grow, noGrow                           bool
	meta, tags, env, files, nics, initArgs []string
	description, hostname, keyName, sshKey string
	called                                 string // the host name, which a root that has one keeps beside it
	userData, configDrive, init, restart   string
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
	f.StringArrayVar(&o.nics, "nic", nil, "none, auto, bridge=B, net-name=N or net-id=ID, with ,mac=M ,v4-fixed-ip=A ,v6-fixed-ip=A ,gateway=G ,v6-gateway=G and ,dns=S (can be repeated)")
	f.StringVar(&o.hostname, "hostname", "", "host name, also written into the root")
	f.StringArrayVar(&o.meta, "meta", nil, "KEY=VALUE to keep with the instance (can be repeated)")
	f.StringVar(&o.description, "description", "", "description of the instance")
	f.StringArrayVar(&o.tags, "tags", nil, "tags of the instance, with commas between (can be repeated)")
	f.StringVar(&o.keyName, "key-name", os.Getenv("NOVACLIENT_DEFAULT_KEY_NAME"), "ssh key of STATE/keypairs/NAME.pub for root")
	f.StringVar(&o.sshKey, "ssh-key", "", "file of ssh public keys for root")
	f.StringVar(&o.userData, "user-data", "", "file for cloud-init")
	f.StringVar(&o.configDrive, "config-drive", "", "true: write cloud-init's seed in any case; false: leave the root as it is, but for what is asked for")
	f.BoolVar(&o.newIdentity, "new-identity", false, "give a volume that was there before a name, a machine id and an instance-id of its own, as one that is made gets them")
	f.StringArrayVar(&o.files, "file", nil, "DST=SRC, a file to write into the root (can be repeated)")
	f.StringVar(&o.init, "init", "", "program to start in the container (default: the root's init)")
	f.StringArrayVar(&o.initArgs, "init-arg", nil, "argument of the init (can be repeated)")
	f.StringArrayVar(&o.env, "env", nil, "KEY=VALUE for the init (can be repeated)")
	f.BoolVar(&o.privileged, "privileged", false, "no user namespace: root in the container is root of the host")
	f.StringVar(&o.restart, "restart", "", "start the container again when it has ended by itself: no, always, on-failure or on-failure:N")
	f.BoolVar(&o.fsck, "fsck", false, "check the filesystems of the root and of mounted volumes, read-only, before they are first mounted")
	f.BoolVar(&o.grow, "grow", false, "make the filesystems of the root and of mounted volumes as large as these, also of volumes that exist (default: of those made from an image or a snapshot, or extended)")
	f.BoolVar(&o.noGrow, "no-grow", false, "leave all filesystems as large as they are")
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
	for flag, list := range map[string]func(context.Context) ([]string, error){"flavor": a.flavorNames, "image": images.names(a), "boot-volume": volumes.names(a), "snapshot": snapshots.names(a)} {
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
		for source, list := range map[string]func(context.Context) ([]string, error){"image": images.names(a), "volume": volumes.names(a), "snapshot": snapshots.names(a)} {
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
