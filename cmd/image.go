package cmd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

func (a *App) newImageCmd() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Manage images"}
	c.AddCommand(a.newImageImportCmd(),
		&cobra.Command{Use: "list", Short: "List images", Args: cobra.NoArgs, RunE: a.imageList},
		&cobra.Command{Use: "show IMAGE", Short: "Show an image", Args: cobra.ExactArgs(1), RunE: a.imageShow, ValidArgsFunction: a.completer(a.imageNames, false)},
		&cobra.Command{Use: "delete IMAGE...", Short: "Delete images", Args: cobra.MinimumNArgs(1), RunE: a.imageDelete, ValidArgsFunction: a.completer(a.imageNames, true)})
	return c
}

func (a *App) newImageImportCmd() *cobra.Command {
	var req volume.ImportImage
	var properties []string
	c := &cobra.Command{
		Use: "import FILE", Short: "Make an image from a file", Args: cobra.ExactArgs(1),
		Long: `Make an image from a file: raw or qcow2, and also vmdk, vhdx and vdi. The format is
detected from the content, and held against --disk-format where that is given. An
image that names another file (a backing file, a data file) is refused.`,
		Example: "  lxcboot image import disk.raw --name busybox",
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			req.Path = args[0]
			if req.Properties, err = keyValues("--property", properties); err != nil {
				return err
			}
			if req.Path == "" {
				return usagef("image import: the FILE is empty; give the path of an image")
			}
			if _, err := os.Stat(req.Path); err != nil {
				return usagef("cannot read the image file: %v", err)
			}
			var done func()
			req.Progress, done = a.progress("importing " + filepath.Base(req.Path))
			img, err := store.ImportImage(c.Context(), req)
			done()
			if err != nil {
				return err
			}
			return a.printRecord(imageRecord(img))
		},
	}
	c.Flags().StringVar(&req.Name, "name", "", "name of the image")
	c.Flags().StringVar(&req.DiskFormat, "disk-format", "", "raw, qcow2, vmdk, vhdx or vdi (default: detected)")
	_ = c.RegisterFlagCompletionFunc("disk-format", cobra.FixedCompletions([]string{"raw", "qcow2", "vmdk", "vhdx", "vdi"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().IntVar(&req.MinDisk, "min-disk", 0, "least size of a volume made from it, in GiB")
	c.Flags().IntVar(&req.MinRAM, "min-ram", 0, "least memory of a flavor that boots it, in MiB")
	repeated(c.Flags(), &properties, "property", "KEY=VALUE to keep with it (can be repeated)")
	return c
}

// progress is a line on stderr, where that is a terminal, which goes when it is finished.
func (a *App) progress(what string) (step func(done, total int64), finish func()) {
	if a.quiet || !isTerminal(a.Err) {
		return nil, func() {}
	}
	const clear = "\r\x1b[K"
	last := int64(-1)
	return func(done, total int64) {
			if percent := done * 100 / max(total, 1); percent != last {
				last = percent
				fmt.Fprintf(a.Err, "%s%s: %d%%", clear, sanitize(what, false), percent)
			}
		}, func() {
			fmt.Fprint(a.Err, clear)
		}
}

// keyValues reads the KEY=VALUE pairs of a flag; the value may hold further '='.
func keyValues(flag string, pairs []string) (map[string]string, error) {
	all := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("%s: '['%s']' is not in the format of 'key=value'", flag, p)
		}
		if _, twice := all[k]; twice {
			return nil, usagef("%s %q: the key %q is given twice", flag, p, k)
		}
		all[k] = v
	}
	return all, nil
}

func imageRecord(i volume.Image) record {
	return record{{"id", i.ID}, {"name", i.Name}, {"status", i.Status}, {"disk_format", i.DiskFormat}, {"size", i.Size}, {"virtual_size", i.VirtualSize},
		{"min_disk", i.MinDisk}, {"min_ram", i.MinRAM}, {"checksum", i.Checksum}, {"properties", i.Properties}, {"created_at", i.CreatedAt}}
}

func (a *App) imageList(c *cobra.Command, _ []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	all, damaged := store.Images(c.Context())
	if damaged != nil && all == nil {
		return damaged
	}
	slices.SortFunc(all, func(x, y volume.Image) int { return strings.Compare(x.Name+x.ID, y.Name+y.ID) })
	l := listing{columns: []string{"ID", "Name", "Status", "Disk Format", "Size"}}
	for _, i := range all {
		l.rows = append(l.rows, []any{i.ID, i.Name, i.Status, i.DiskFormat, i.Size})
	}
	return errors.Join(a.printList(l), damaged)
}

func (a *App) imageShow(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	img, err := store.Image(c.Context(), args[0])
	if err != nil {
		return err
	}
	return a.printRecord(imageRecord(img))
}

func (a *App) imageDelete(c *cobra.Command, args []string) error {
	store, err := a.openStore(c.Context())
	if err != nil {
		return err
	}
	return each(args, func(ref string) error {
		img, err := store.Image(c.Context(), ref)
		if err != nil {
			return err
		}
		return store.DeleteImage(c.Context(), img.ID)
	})
}

// each does something to everything that was named, and goes on when one fails.
func each(refs []string, do func(string) error) error {
	var all []error
	for _, ref := range refs {
		all = append(all, do(ref))
	}
	return errors.Join(all...)
}
