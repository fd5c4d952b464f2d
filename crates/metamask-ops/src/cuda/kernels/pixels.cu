// Programs over the pixels of images, a block of threads for each; `cuda/pixels.rs` writes them.
//
// The result is the CPU's, bit for bit: metamask-augment's arithmetic, operation by operation.
// Products are never fused with sums (nvcc would), and every sum has the CPU's order.

#include <stdint.h>

__device__ inline float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ inline float over(float a, float b) { return __fdiv_rn(a, b); }

__device__ inline float larger(float a, float b) { return a > b ? a : b; }
__device__ inline float smaller(float a, float b) { return a < b ? a : b; }

__device__ inline float within(float v, float low, float high) {
    if (v < low) v = low;
    return v > high ? high : v;
}

__device__ inline float shade(float v) { return within(v, 0.0f, 255.0f); }

// ITU-R 601.
__device__ inline float luma(float r, float g, float b) {
    return add(add(mul(0.299f, r), mul(0.587f, g)), mul(0.114f, b));
}

// An image at work: three planes of values in 0 to 255, and as much memory beside them.
struct Canvas {
    float *front, *back;
    int height, width;

    __device__ int pixels() const { return height * width; }

    // What was written to the back becomes the image.
    __device__ void turn(int new_height, int new_width) {
        __syncthreads();
        float *written = back;
        back = front;
        front = written;
        height = new_height;
        width = new_width;
    }
};

struct Pixel { float at[3]; };

// Three values, one in each plane.
__device__ inline Pixel pixel_at(const float *plane, int pixels) {
    return {plane[0], plane[pixels], plane[2 * pixels]};
}

// Adds a weighed pixel to a sum.
__device__ inline void add_scaled(Pixel &sum, Pixel pixel, float weight) {
    for (int plane = 0; plane < 3; ++plane) sum.at[plane] = add(sum.at[plane], mul(pixel.at[plane], weight));
}

// Writes a new image to the back: at (y, x) what `pixel` says.
template <typename Source> __device__ void redraw(Canvas &c, int height, int width, Source pixel) {
    const int n = height * width;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const Pixel p = pixel(i / width, i % width);
        for (int plane = 0; plane < 3; ++plane) c.back[plane * n + i] = p.at[plane];
    }
    c.turn(height, width);
}

// Replaces every pixel (r, g, b) by what `change` makes of it.
template <typename Change> __device__ void each_pixel(Canvas &c, Change change) {
    const int n = c.pixels();
    for (int i = threadIdx.x; i < n; i += blockDim.x) change(c.front[i], c.front[n + i], c.front[2 * n + i]);
    __syncthreads();
}

// Replaces every value by what `change` makes of it.
template <typename Change> __device__ void each_value(Canvas &c, Change change) {
    each_pixel(c, [&](float &r, float &g, float &b) {
        r = change(r);
        g = change(g);
        b = change(b);
    });
}

// Bilinear with antialias, as PIL has it: what position `out` of a resized axis mixes.
struct Taps {
    double centre, support, total;
    int first, end;

    __device__ Taps(int len, int out_len, int out) {
        const double scale = (double)len / (double)out_len;
        support = scale > 1.0 ? scale : 1.0;
        centre = __dmul_rn((double)out + 0.5, scale);
        const double low = __dadd_rn(__dsub_rn(centre, support), 0.5);
        first = low > 0.0 ? (int)low : 0;
        end = min((int)__dadd_rn(__dadd_rn(centre, support), 0.5), len);
        total = 0.0;
        for (int x = first; x < end; ++x) total = __dadd_rn(total, triangle(x));
    }

    __device__ double triangle(int x) const {
        const double away = fabs(__ddiv_rn(__dsub_rn(__dadd_rn((double)x, 0.5), centre), support));
        return away < 1.0 ? __dsub_rn(1.0, away) : 0.0;
    }

    // The mix of pixels that lie `stride` apart.
    __device__ Pixel mix(const float *line, int stride, int pixels) const {
        Pixel sum = {};
        for (int x = first; x < end; ++x)
            add_scaled(sum, pixel_at(line + x * stride, pixels), (float)__ddiv_rn(triangle(x), total));
        return sum;
    }
};

// The mean luma, in eight running sums for every 1024 pixels.
__device__ double mean_luma(Canvas &c) {
    const int n = c.pixels(), block = 1024, lanes = 8;
    const int sums = (n + block - 1) / block * lanes;
    for (int i = threadIdx.x; i < sums; i += blockDim.x) {
        const int end = min((i / lanes + 1) * block, n);
        float sum = 0.0f;
        for (int at = i / lanes * block + i % lanes; at < end; at += lanes)
            sum = add(sum, luma(c.front[at], c.front[n + at], c.front[2 * n + at]));
        c.back[i] = sum;
    }
    __syncthreads();
    // Each thread for itself: what they read is the same.
    double total = 0.0;
    for (int i = 0; i < sums; i += lanes) {
        float sum = 0.0f;
        for (int lane = 0; lane < lanes; ++lane) sum = add(sum, c.back[i + lane]);
        total = __dadd_rn(total, (double)sum);
    }
    return __ddiv_rn(total, (double)n);
}

// Turns the hue by `shift` sextants.
__device__ void turn_hue(float &r, float &g, float &b, float shift) {
    const float value = larger(r, larger(g, b)), low = smaller(r, smaller(g, b));
    const float chroma = sub(value, low);
    const float scale = over(1.0f, larger(chroma, 1e-20f));
    float hue = value == g ? add(mul(sub(b, r), scale), 2.0f) : add(mul(sub(r, g), scale), 4.0f);
    hue = add(value == r ? mul(sub(g, b), scale) : hue, shift);
    if (hue < 0.0f) hue = add(hue, 6.0f);
    if (hue >= 6.0f) hue = sub(hue, 6.0f);
    const auto channel = [&](float share) { return add(low, mul(chroma, within(share, 0.0f, 1.0f))); };
    r = channel(sub(fabsf(sub(hue, 3.0f)), 1.0f));
    g = channel(sub(2.0f, fabsf(sub(hue, 2.0f))));
    b = channel(sub(2.0f, fabsf(sub(hue, 4.0f))));
}

// Position `padded - radius` of an axis that is reflected at its ends.
__device__ inline int reflected(int padded, int radius, int len) {
    const int at = abs(padded - radius);
    return at < len ? at : 2 * (len - 1) - at;
}

// `Code` of `cuda/pixels.rs`.
enum Code : uint32_t {
    LOAD, CROP, RESIZE_ROWS, RESIZE_COLUMNS, FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, BLUR,
    SOLARIZE, STORE
};

// Program `starts[blockIdx.x]` of `words`: the number of an image, and instructions up to the one
// that stores. `scratch` has twice `canvas` numbers for each program, `out` has its height * width * 3.
extern "C" __global__ void pixel_programs_u8(const uint8_t *images, const uint32_t *words, const uint32_t *starts,
                                             float *scratch, float *out, int64_t canvas, int64_t out_len,
                                             int in_height, int in_width) {
    const uint32_t *word = words + starts[blockIdx.x];
    const uint8_t *image = images + (int64_t)*word++ * in_height * in_width * 3;
    out += blockIdx.x * out_len;
    Canvas c = {scratch + 2 * blockIdx.x * canvas, scratch + (2 * blockIdx.x + 1) * canvas, 0, 0};
    const auto number = [&]() { return __uint_as_float(*word++); };
    for (;;) switch (*word++) {
        case LOAD: {
            const int top = word[0], left = word[1];
            c.height = word[2], c.width = word[3], word += 4;
            const int n = c.pixels();
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                const uint8_t *pixel = image + ((int64_t)(top + i / c.width) * in_width + left + i % c.width) * 3;
                for (int plane = 0; plane < 3; ++plane) c.front[plane * n + i] = (float)pixel[plane];
            }
            __syncthreads();
            break;
        }
        case CROP: {
            const int height = word[2], width = word[3];
            const float *corner = c.front + word[0] * c.width + word[1];
            word += 4;
            redraw(c, height, width, [=](int y, int x) { return pixel_at(corner + y * c.width + x, c.pixels()); });
            break;
        }
        case RESIZE_ROWS: {
            const int width = *word++;
            redraw(c, c.height, width, [=](int y, int x) {
                return Taps(c.width, width, x).mix(c.front + y * c.width, 1, c.pixels());
            });
            break;
        }
        case RESIZE_COLUMNS: {
            const int height = *word++;
            redraw(c, height, c.width,
                   [=](int y, int x) { return Taps(c.height, height, y).mix(c.front + x, c.width, c.pixels()); });
            break;
        }
        case FLIP:
            redraw(c, c.height, c.width,
                   [=](int y, int x) { return pixel_at(c.front + (y + 1) * c.width - 1 - x, c.pixels()); });
            break;
        case BRIGHTNESS: {
            const float factor = number();
            each_value(c, [=](float v) { return shade(mul(v, factor)); });
            break;
        }
        case CONTRAST: {
            const float factor = number();
            const float mean = (float)floor(__dadd_rn(mean_luma(c), 0.5));
            const float rest = mul(mean, sub(1.0f, factor));
            each_value(c, [=](float v) { return shade(add(mul(v, factor), rest)); });
            break;
        }
        case SATURATION: {
            const float factor = number();
            each_pixel(c, [=](float &r, float &g, float &b) {
                const float rest = mul(luma(r, g, b), sub(1.0f, factor));
                r = shade(add(mul(r, factor), rest));
                g = shade(add(mul(g, factor), rest));
                b = shade(add(mul(b, factor), rest));
            });
            break;
        }
        case HUE: {
            const float shift = mul(6.0f, number());
            each_pixel(c, [=](float &r, float &g, float &b) { turn_hue(r, g, b, shift); });
            break;
        }
        case GRAYSCALE:
            each_pixel(c, [](float &r, float &g, float &b) { r = g = b = luma(r, g, b); });
            break;
        case BLUR: {
            const int kernel = *word++, n = c.pixels();
            const uint32_t *weights = word;
            word += kernel;
            // Of a line of `len` pixels that lie `stride` apart.
            const auto blurred = [=](const float *line, int stride, int len, int at) {
                Pixel sum = {};
                for (int tap = 0; tap < kernel; ++tap) {
                    const int from = reflected(at + tap, kernel / 2, len);
                    add_scaled(sum, pixel_at(line + from * stride, n), __uint_as_float(weights[tap]));
                }
                return sum;
            };
            redraw(c, c.height, c.width, [=](int y, int x) { return blurred(c.front + x, c.width, c.height, y); });
            redraw(c, c.height, c.width, [=](int y, int x) { return blurred(c.front + y * c.width, 1, c.width, x); });
            break;
        }
        case SOLARIZE: {
            const float threshold = mul(number(), 255.0f);
            each_value(c, [=](float v) { return v >= threshold ? sub(255.0f, v) : v; });
            break;
        }
        default: {  // STORE
            const int n = c.pixels();
            for (int i = threadIdx.x; i < 3 * n; i += blockDim.x) {
                const int plane = i % 3;
                const float mean = __uint_as_float(word[plane]), std = __uint_as_float(word[3 + plane]);
                out[i] = over(sub(over(c.front[plane * n + i / 3], 255.0f), mean), std);
            }
            return;
        }
    }
}
