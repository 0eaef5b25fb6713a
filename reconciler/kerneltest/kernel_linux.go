package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kernel is an unpacked kernel package.
type kernel struct {
	version string // as in /lib/modules/<version>
	root    string // where the package was unpacked
	image   string // the kernel itself
}

// metaPackage depends on the current cloud kernel of the Debian release that runs here.
const metaPackage = "linux-image-cloud-amd64"

// fetchKernel finds the current kernel package and unpacks it into the cache. When apt knows none (no lists, no network)
// the newest one in the cache will do.
func fetchKernel(ctx context.Context) (kernel, error) {
	cache, err := cacheFolder()
	if err != nil {
		return kernel{}, err
	}
	name, err := kernelPackage(ctx)
	if err != nil {
		if k, ok := newestCached(cache); ok {
			return k, nil
		}
		return kernel{}, err
	}
	folder := filepath.Join(cache, name)
	if k, err := openKernel(folder); err == nil {
		return k, nil
	}
	fmt.Printf("kerneltest: fetching %s\n", name)
	if err := download(ctx, cache, name, folder); err != nil {
		return kernel{}, err
	}
	return openKernel(folder)
}

func cacheFolder() (string, error) {
	base := os.Getenv("APEX_CACHE")
	if base == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache folder: set APEX_CACHE or HOME: %w", err)
		}
		base = filepath.Join(user, "apex")
	}
	folder := filepath.Join(base, "kernel")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("cache folder: %w", err)
	}
	return folder, nil
}

// kernelPackage asks apt which package the meta package stands for.
func kernelPackage(ctx context.Context) (string, error) {
	out, err := command(ctx, "", "apt-cache", "depends", metaPackage)
	if err != nil {
		return "", fmt.Errorf("ask apt for %s (run `apt-get update` first): %w", metaPackage, err)
	}
	// An unsigned twin may be named as well; the signed package has no such suffix.
	m := regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9][0-9a-z.+~-]*-cloud-amd64)$`).FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt knows no kernel behind %s: run `apt-get update`, or use Debian on amd64 or with that architecture added", metaPackage)
	}
	return m[1], nil
}

// download fetches and unpacks a package; the folder appears only when it is complete.
func download(ctx context.Context, cache, name, folder string) error {
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil { // apt's sandbox user writes into it when it can
		return err
	}
	if _, err := command(ctx, work, "apt-get", "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
	}
	root := filepath.Join(work, "root")
	if _, err := command(ctx, work, "dpkg", "-x", debs[0], root); err != nil {
		return err
	}
	version, err := moduleVersion(root)
	if err != nil {
		return err
	}
	// depmod -b looks in <root>/lib/modules; a package for merged /usr keeps them in usr/lib.
	if _, err := os.Stat(filepath.Join(root, "lib")); errors.Is(err, os.ErrNotExist) {
		if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
			return err
		}
	}
	if _, err := command(ctx, work, "depmod", "-b", root, version); err != nil {
		return err
	}
	if err := os.Rename(root, folder); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func moduleVersion(root string) (string, error) {
	for _, lib := range []string{"lib", "usr/lib"} {
		entries, err := os.ReadDir(filepath.Join(root, lib, "modules"))
		if err == nil && len(entries) == 1 {
			return entries[0].Name(), nil
		}
	}
	return "", fmt.Errorf("%s holds no modules of one kernel", root)
}

func openKernel(folder string) (kernel, error) {
	version, err := moduleVersion(folder)
	if err != nil {
		return kernel{}, err
	}
	k := kernel{version: version, root: folder, image: filepath.Join(folder, "boot", "vmlinuz-"+version)}
	_, err = os.Stat(k.image)
	return k, err
}

func newestCached(cache string) (kernel, bool) {
	folders, _ := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	slices.SortFunc(folders, func(a, b string) int { return -strings.Compare(a, b) })
	for _, f := range folders {
		if k, err := openKernel(f); err == nil {
			return k, true
		}
	}
	return kernel{}, false
}

// modules gives the files to load, in order, for the named modules and what they depend on. Those built into the kernel
// need none.
func (k kernel) modules(ctx context.Context, names ...string) ([]string, error) {
	var out []string
	for _, name := range names {
		text, err := command(ctx, "", "modprobe", "-d", k.root, "-S", k.version, "--show-depends", name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) >= 2 && f[0] == "insmod" && !slices.Contains(out, f[1]) {
				out = append(out, f[1])
			}
		}
	}
	return out, nil
}

// command runs a program in a folder and gives its output, or an error that shows it.
func command(ctx context.Context, dir, name string, arg ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(arg, " "), err, out, stderr.String())
	}
	return string(out), nil
}
