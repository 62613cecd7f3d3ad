package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/imagefile"
	"github.com/lxcboot/lxcboot/pkg/volume/local"
)

func (a *App) newImageImportCmd() *cobra.Command {
	var req volume.ImportImage
	var src imagefile.Source
	var properties []string
	var size int
	c := &cobra.Command{
		Use: "import FILE|URL|-", Short: "Make an image from a file, a URL or a pipe", Args: cobra.ExactArgs(1),
		Long: `Make an image from a file, an http or https URL, or standard input: raw or qcow2, and
also vmdk, vhdx and vdi. The format is detected from the content, and held against
--disk-format where that is given. What is packed with gzip, xz, zstd or bzip2 is
unpacked, unless --disk-format raw says that it is meant as it is. An image that names
another file (a backing file, a data file) is refused. A tar archive of the tree of a
root becomes an ext4 of --size GiB.

--checksum is that of the file as it is published: ALGORITHM:HEX, or the path or URL of
a list of checksums (SHA256SUMS) in which the file is looked up by its name. A URL is
read on where the connection breaks off; http_proxy, https_proxy and no_proxy count.`,
		Example: `  lxcboot image import disk.raw --name busybox
  lxcboot image import https://example.org/images/disk.qcow2 --checksum https://example.org/images/SHA256SUMS
  xz -dc disk.raw.xz | lxcboot image import - --name piped
  lxcboot image import rootfs.tar.xz --size 2 --name system`,
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.openStore(c.Context())
			if err != nil {
				return err
			}
			if req.Properties, err = keyValues("--property", properties); err != nil {
				return err
			}
			src.From, src.Stdin, src.Dir, src.Plain = args[0], c.InOrStdin(), a.settings.StateDir, req.DiskFormat == "raw"
			if src.From == "" {
				return failure.Invalid("image import: the FILE is empty; give the path of an image, a URL, or - for standard input")
			}
			if src.Tree = c.Flags().Changed("size"); src.Tree && (size < 1 || size > local.MaxSize) {
				return failure.Invalid("image import: --size %d is not between 1 and %d GiB", size, local.MaxSize)
			}
			if src.Tree && req.DiskFormat != "" {
				return failure.Invalid("image import: --size is for an archive of a root's tree, and --disk-format for a disk: leave one out")
			}
			req.Path = src.Called()
			if !c.Flags().Changed("name") {
				req.Name = src.Name()
			}
			return images.make(a, "is imported", func() (volume.Image, error) {
				return a.importImage(c.Context(), store, src, int64(size)<<30, req)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Name, "name", "", "name of the image (default: the file's)")
	f.StringVar(&req.DiskFormat, "disk-format", "", "raw, qcow2, vmdk, vhdx or vdi (default: detected)")
	_ = c.RegisterFlagCompletionFunc("disk-format", cobra.FixedCompletions([]string{"raw", "qcow2", "vmdk", "vhdx", "vdi"}, cobra.ShellCompDirectiveNoFileComp))
	f.IntVar(&size, "size", 0, "make an ext4 of this many GiB of a tar archive of a root's tree")
	f.StringVar(&src.Checksum, "checksum", "", "ALGORITHM:HEX, or the path or URL of a list of checksums")
	f.StringVar(&src.CACert, "cacert", "", "file with the certificates of authorities that a URL's server may be known by")
	f.IntVar(&req.MinDisk, "min-disk", 0, "least size of a volume made from it, in GiB")
	f.IntVar(&req.MinRAM, "min-ram", 0, "least memory of a flavor that boots it, in MiB")
	f.StringArrayVar(&properties, "property", nil, "KEY=VALUE to keep with it (can be repeated)")
	return c
}

// importImage fetches an image and gives it to the store, and warns of what its user may not
// expect. Of an archive of a tree it makes a disk of treeSize bytes.
func (a *App) importImage(ctx context.Context, store Store, src imagefile.Source, treeSize int64, req volume.ImportImage) (volume.Image, error) {
	what := filepath.Base(req.Path)
	var done func()
	if err := os.MkdirAll(src.Dir, 0o700); err != nil {
		return volume.Image{}, err
	}
	src.Progress, done = a.progress("fetching " + what)
	content, err := src.Open(ctx)
	done()
	if err != nil {
		return volume.Image{}, err
	}
	defer content.Close()
	if src.Tree {
		if content, err = a.unpackTree(ctx, src, content, treeSize); err != nil {
			return volume.Image{}, err
		}
		defer content.Close()
	}
	all, err := store.Images(ctx)
	if err != nil {
		return volume.Image{}, err
	}
	if i := slices.IndexFunc(all, func(i volume.Image) bool { return i.Name == req.Name && req.Name != "" }); i >= 0 {
		a.warn("image %s is called %q, too: both are known by their ids alone, until lxcboot image set %[1]s --name gives that one another name", all[i].ID, req.Name)
	}
	req.Content = content
	req.Warn = func(text string) { a.warn("%s", text) }
	req.Progress, done = a.progress("importing " + what)
	defer done()
	// What the store makes of it, and so what it is, is known afterwards; what it holds, only
	// as long as it is open.
	_, why := rootfs.Select(ctx, imagefile.Path(content), rootfs.Selection{})
	img, err := store.ImportImage(ctx, req)
	var none *rootfs.NotFoundError
	if err == nil && img.DiskFormat == "raw" && errors.As(why, &none) {
		a.warn("image %s is not to be booted as it is: %v", img.ID, none)
	}
	return img, err
}

// unpackTree makes a disk of an archive of the tree of a root.
func (a *App) unpackTree(ctx context.Context, src imagefile.Source, archive *os.File, size int64) (*os.File, error) {
	disk, err := src.Blank(size)
	if err != nil {
		return nil, err
	}
	hint, err := rootfs.Unpack(ctx, archive, imagefile.Path(disk))
	if err != nil {
		disk.Close()
		return nil, fmt.Errorf("image file %s: %w", src.Called(), err)
	}
	if hint != "" {
		a.warn("image file %s holds no init: %s", src.Called(), hint)
	}
	return disk, nil
}
