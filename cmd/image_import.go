package cmd

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

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
				return failure.Invalid("image import: the FILE is empty; give the path of an image")
			}
			if _, err := os.Stat(req.Path); err != nil {
				return failure.Invalid("cannot read the image file: %v", err)
			}
			return images.make(a, "is imported", func() (volume.Image, error) {
				var done func()
				req.Progress, done = a.progress("importing " + filepath.Base(req.Path))
				defer done()
				req.Warn = func(text string) { a.warn("%s", text) }
				return store.ImportImage(c.Context(), req)
			})
		},
	}
	c.Flags().StringVar(&req.Name, "name", "", "name of the image")
	c.Flags().StringVar(&req.DiskFormat, "disk-format", "", "raw, qcow2, vmdk, vhdx or vdi (default: detected)")
	_ = c.RegisterFlagCompletionFunc("disk-format", cobra.FixedCompletions([]string{"raw", "qcow2", "vmdk", "vhdx", "vdi"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().IntVar(&req.MinDisk, "min-disk", 0, "least size of a volume made from it, in GiB")
	c.Flags().IntVar(&req.MinRAM, "min-ram", 0, "least memory of a flavor that boots it, in MiB")
	c.Flags().StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
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
				fmt.Fprintf(a.Err, "%s%s: %d%%", clear, tty.Line(what), percent)
			}
		}, func() {
			fmt.Fprint(a.Err, clear)
		}
}
